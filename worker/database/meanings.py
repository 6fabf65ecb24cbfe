"""What an error of the database server means to the person at a command, and what to do: by SQLSTATE, not by text."""

from __future__ import annotations

import psycopg

from worker.database.errors import explain_connection
from worker.errors import SettingsError

READ_ONLY = """
    select pg_is_in_recovery() as replica, current_setting('transaction_read_only')::boolean as read_only,
           current_database()::text as name"""
"""Asks whether this server can be written to; for `explain_read_only`."""

WRITABLE_AGAIN = (
    "on Supabase, its disk is full: free or add space; elsewhere, default_transaction_read_only is on for the role, "
    "the database or the server: set it off"
)
OTHER_RELEASE = "as the database owner: worker migrate; if that has nothing to apply, worker migrate --repair"
OWNERS_URL = "set DATABASE_URL to the URL of the database's owner (postgres, on Supabase), not of a pod"

_MEANINGS = {
    "25006": ("the database is read-only", WRITABLE_AGAIN),
    "3D000": ("the database does not exist", "correct the path of DATABASE_URL"),
    "3F000": ("schema worker not found here", OTHER_RELEASE),
    "42P01": ("schema worker not found here, or of another release", OTHER_RELEASE),
    "42703": ("schema worker is of another release", OTHER_RELEASE),
    "42883": ("schema worker not found here, or of another release", OTHER_RELEASE),
    "53100": ("the database's disk is full", "free or add space"),
    "55P03": ("another transaction holds what this needs", "try again"),
    "57014": ("the statement was cancelled", "try again; if statement_timeout is low for this login, raise it"),
}
"""By SQLSTATE: what it means, and what to do."""


def explain_error(error: psycopg.Error, login: str | None = None) -> SettingsError:
    """Return what the error means and what to do. It repeats the server's message, never a statement or a value.

    Args:
        login: the role that was connected, if it is known.
    """
    reason = error.diag.message_primary
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return SettingsError(f"permission denied{f' for {login}' if login else ''} ({reason})", OWNERS_URL)
    if error.sqlstate in _MEANINGS:
        problem, hint = _MEANINGS[error.sqlstate]
        return SettingsError(f"{problem} ({reason})", hint)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        if error.sqlstate is None and reason is None and "connection failed" in str(error):
            return explain_connection(error, "DATABASE_URL")
        return SettingsError(
            f"the database failed: {reason or 'the connection broke'}", "try again, and check it with worker doctor"
        )
    return SettingsError(f"the database reports: {reason or type(error).__name__}", "check its log, and worker doctor")


def explain_read_only(replica: bool, read_only: bool, name: str) -> SettingsError | None:
    """Return why a database cannot be written to, as `READ_ONLY` found it; None if it can."""
    if replica:
        return SettingsError(
            "this server is a replica: no job can be queued or run here",
            "set DATABASE_URL to the primary's address",
        )
    if read_only:
        return SettingsError(f"database {name} is read-only: no job can be queued or run", WRITABLE_AGAIN)
    return None

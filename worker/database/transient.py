"""Whose fault an error of the database is, by its SQLSTATE class; and how a background loop continues after one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import psycopg
import structlog

log = structlog.get_logger()


class Fault(StrEnum):
    """Whose fault an error is."""

    PASSING = "passing"
    """Nobody's: the same statement may succeed when it is sent again, perhaps over another connection."""
    JOB = "job"
    """A value's that the database does not take."""
    OURS = "ours"
    """The worker's, or that of the schema or the rights it was given: sending it again changes nothing."""


_BY_CLASS = {
    "08": Fault.PASSING,  # connections; also whatever PgBouncer has to say
    "22": Fault.JOB,  # values
    "23": Fault.JOB,  # constraints
    "28": Fault.PASSING,  # logins: poolers remember a password for a minute after it has changed
    "40": Fault.PASSING,  # deadlocks, serialization
    "44": Fault.JOB,  # a view's or policy's check
    "53": Fault.PASSING,  # too many connections, full disk, no memory
    "54": Fault.JOB,  # limits: a value is too large or too deep
    "55": Fault.PASSING,  # locks
    "57": Fault.PASSING,  # cancelled, a server that stops or starts
    "58": Fault.PASSING,  # the server's disks
    "72": Fault.PASSING,  # snapshot too old
}
_BY_CODE = {
    "25006": Fault.PASSING,  # read-only: a failover, or Supabase while the disk is full
    "25P03": Fault.PASSING,  # idle in a transaction for too long
    "25P04": Fault.PASSING,  # a transaction took too long
    "26000": Fault.PASSING,  # a prepared statement that another connection of a pooler has
    "3D000": Fault.PASSING,  # no such database: it is being restored
    "42P05": Fault.PASSING,  # a prepared statement that another client of a pooler made
    "55P02": Fault.OURS,  # a setting that cannot be changed now
    "55P04": Fault.OURS,  # a new enum value that is not committed yet
    "HV00N": Fault.PASSING,  # a foreign server does not respond
    "XX000": Fault.PASSING,  # how Supabase's pooler reports that it lost its connection
}


def fault_of(error: psycopg.Error) -> Fault:
    """Return whose fault an error is. Of classes and codes that are not listed: ours."""
    code = error.sqlstate
    if code is None:  # from psycopg, its pool or libpq, not from a server
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Fault.PASSING
        return Fault.JOB if isinstance(error, psycopg.DataError) else Fault.OURS
    if is_lost_statement(error) or _is_of_dropped_table(error):
        return Fault.PASSING
    return _BY_CODE.get(code) or _BY_CLASS.get(code[:2]) or Fault.OURS


def is_lost_statement(error: psycopg.Error) -> bool:
    """Return True if a prepared statement is not, or no longer, what this connection takes it for."""
    if error.sqlstate == "0A000":  # after a migration: "cached plan must not change result type", in any language
        return error.diag.source_function == "RevalidateCachedQuery"
    return error.sqlstate in ("26000", "42P05")


def _is_of_dropped_table(error: psycopg.Error) -> bool:
    """Return True if a function missed a table.

    That of a kind, dropped while the function waited for it: when called again, the function passes over it.
    """
    return error.sqlstate == "42P01" and error.diag.context is not None


def is_transient(error: BaseException) -> bool:
    """Return True if the same statement may succeed when sent again; of a group of errors, if that is so of each."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_transient, error.exceptions))
    return isinstance(error, psycopg.Error) and fault_of(error) is Fault.PASSING


@contextmanager
def suppress_transient_errors(event: str, *others: type[Exception]) -> Iterator[None]:
    """Suppress transient database errors and `others`, each logged as a warning named `event`.

    Any other error is raised: a worker must not continue after a bug.
    """
    try:
        yield
    except Exception as error:
        if not (is_transient(error) or isinstance(error, others)):
            raise
        log.warning(event, reason=type(error).__name__)

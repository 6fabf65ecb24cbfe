"""Explain why a connection to the database failed, with a hint how to fix it.

libpq gives no SQLSTATE for a connection that was never made, only its own text or the server's, so this is the one
place that matches error texts. An unknown text is passed on unchanged.
"""

from __future__ import annotations

import re

import psycopg

from worker.errors import SettingsError

_SESSION_POOLER = "on Supabase, the session pooler's address (Connect → Session pooler, port 5432)"

_LOGIN_REFUSED = r"password authentication failed|no password supplied|SASL|SCRAM"
_HINTS = (
    (
        r"could not translate host name|failed to resolve host|Name or service not known|name resolution",
        "the host was not found: correct it; " + _SESSION_POOLER,
    ),
    (
        r"Network is unreachable|No route to host|Cannot assign requested address",
        "this machine cannot reach the host: Supabase's direct host speaks IPv6 only; use " + _SESSION_POOLER,
    ),
    (r"Connection refused", "nothing listens there: correct host and port, or start the server"),
    (
        r"timeout expired|timed out",
        "the server does not respond: correct host and port, or open the firewall for this machine",
    ),
    (
        r"Tenant or user not found",
        "the pooler does not know this user: the name must contain the project, like likeness_pod.PROJECT_REF",
    ),
    (
        _LOGIN_REFUSED,
        "wrong user or password: `worker role NAME --rotate` gives a new one "
        "(Supabase's pooler takes a minute to learn it)",
    ),
    (r"role \"[^\"]*\" does not exist", "login not found: `worker role NAME` creates it"),
    (r"is not permitted to log in", "this role is not a login: `worker role NAME` creates one"),
    (
        r"database \"[^\"]*\" does not exist",
        "database not found: correct the path of the address; on Supabase it is postgres",
    ),
    (
        r"does not support SSL|server does not support",
        "this server does not support TLS: remove sslmode=require, or enable TLS on the server",
    ),
    (r"no encryption|SSL connection is required|SSL off", "this server requires TLS: add ?sslmode=require"),
    (
        r"certificate|SSL error|sslrootcert",
        "TLS failed: use the host name of the server's certificate, and set sslrootcert=FILE to its authority",
    ),
    (
        r"too many (?:clients|connections)|connection slots|max clients",
        "all connections are in use: raise the limit of the role, the pooler or the server, or stop a pod",
    ),
    (
        r"statement timeout",
        "statement_timeout of this login or database is too short even to connect: as the database owner, raise it "
        "with ALTER ROLE … SET or ALTER DATABASE … SET",
    ),
    (
        r"transaction timeout",
        "transaction_timeout of this login or database is too short even to connect: as the database owner, raise it "
        "with ALTER ROLE … SET or ALTER DATABASE … SET",
    ),
    (r"permission denied for database", "as the database owner: grant connect on the database to this login"),
)


def explain_connection(error: psycopg.Error, variable: str) -> SettingsError:
    """Return the failure as a SettingsError that names `variable`.

    It never contains a password: the settings refuse an address that libpq might split within the password.
    """
    reason = _reason(str(error))
    hints = [hint for pattern, hint in _HINTS if re.search(pattern, reason, re.IGNORECASE)]
    example = f"for example {variable}=postgresql://likeness_pod.PROJECT_REF:PASSWORD@HOST:5432/postgres"
    return SettingsError(f"connection to {variable} failed: {reason}", f"{hints[0]}; {example}" if hints else example)


def password_refused(error: psycopg.Error) -> bool:
    """Return True if the server refused this login's password, which reconnecting does not fix."""
    return re.search(_LOGIN_REFUSED, str(error)) is not None


def _reason(text: str) -> str:
    """Return the line that says why. For a name with several addresses, libpq prints a summary and a line for each."""
    lines = [line.strip(" \t-") for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"FATAL|failed: |error: ", line)]
    return (telling or lines or ["no reason given"])[-1 if telling else 0]

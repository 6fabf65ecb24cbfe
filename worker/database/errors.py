"""Why nobody can be reached at a database's address, and what mends it.

libpq gives no SQLSTATE for a connection that never came about, only its own text or the server's: so this is the one
place that reads texts. One that is not known here is passed on as it stands.
"""

from __future__ import annotations

import re

import psycopg

from worker.errors import SettingsError

_SESSION_POOLER = "on Supabase, the session pooler's address (Connect → Session pooler, port 5432)"

_LOGIN_REFUSED = r"password authentication failed|no password supplied|SASL|SCRAM"
_CURES = (
    (
        r"could not translate host name|failed to resolve host|Name or service not known|name resolution",
        "the host has no address: correct it; " + _SESSION_POOLER,
    ),
    (
        r"Network is unreachable|No route to host|Cannot assign requested address",
        "this machine cannot reach the host: Supabase's direct host speaks IPv6 only; take " + _SESSION_POOLER,
    ),
    (r"Connection refused", "nothing listens there: correct host and port, or start the server"),
    (
        r"timeout expired|timed out",
        "nobody answers there: correct host and port, or open the firewall for this machine",
    ),
    (
        r"Tenant or user not found",
        "the pooler knows no such user: it wants the project in the name, like likeness_pod.PROJECT_REF",
    ),
    (
        _LOGIN_REFUSED,
        "wrong user or password: `worker role NAME --rotate` gives a new one "
        "(Supabase's pooler takes a minute to learn it)",
    ),
    (r"role \"[^\"]*\" does not exist", "there is no such login: `worker role NAME` makes one"),
    (r"is not permitted to log in", "this role has no login: `worker role NAME` makes one in it"),
    (
        r"database \"[^\"]*\" does not exist",
        "there is no such database: correct the address's path; Supabase's is postgres",
    ),
    (
        r"does not support SSL|server does not support",
        "this server has no TLS: take sslmode=require out, or switch TLS on there",
    ),
    (r"no encryption|SSL connection is required|SSL off", "this server wants TLS: add ?sslmode=require"),
    (
        r"certificate|SSL error|sslrootcert",
        "TLS failed: name the server as its certificate does, and its authority with sslrootcert=FILE",
    ),
    (
        r"too many (?:clients|connections)|connection slots|max clients",
        "all connections are taken: raise the limit of the role, the pooler or the server, or stop a pod",
    ),
    (r"permission denied for database", "as the owner: grant connect on the database to this login"),
)


def explain_connection(error: psycopg.Error, variable: str) -> SettingsError:
    """The failure as a SettingsError that names `variable`.

    Never with a password: the settings refuse an address that libpq might take apart in the middle of one.
    """
    reason = _reason(str(error))
    cures = [cure for pattern, cure in _CURES if re.search(pattern, reason, re.IGNORECASE)]
    example = f"for example {variable}=postgresql://likeness_pod.PROJECT_REF:PASSWORD@HOST:5432/postgres"
    return SettingsError(f"{variable} is refused: {reason}", f"{cures[0]}; {example}" if cures else example)


def password_refused(error: psycopg.Error) -> bool:
    """Whether the server would not take this login's password, which no reconnecting mends."""
    return re.search(_LOGIN_REFUSED, str(error)) is not None


def _reason(text: str) -> str:
    """The line that says why. Where a name has several addresses, libpq tells each and sums up first."""
    lines = [line.strip(" \t-") for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"FATAL|failed: |error: ", line)]
    return (telling or lines or ["no reason given"])[-1 if telling else 0]

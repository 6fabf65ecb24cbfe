"""`worker role`: a login for a pod, as SQL that its owner runs, and the addresses the pod then uses.

The SQL holds a SCRAM verifier, never the password: statements land in server logs. The password stands in the printed
addresses alone.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from psycopg import pq, sql

from worker.database.owner import Connection
from worker.errors import CommandRefused

STATEMENT_TIMEOUT = "60s"
"""No call of a pod's takes seconds; one that hangs frees its connection and is asked again."""
IDLE_IN_TRANSACTION_TIMEOUT = "5min"
"""Longer than the copy of a LoRA, the one thing a pod does inside a transaction."""


@dataclass(frozen=True)
class Login:
    """A pod's login: `statements` make it or change its password, `addresses` are what the pod is given."""

    name: str
    statements: list[str]
    addresses: dict[str, str]

    @property
    def script(self) -> str:
        """The statements for `psql`, all or none: it goes on after an error, and would change a role that was there."""
        return "".join(f"{statement};\n" for statement in ("begin", *self.statements, "commit"))


def make_login(name: str, owners_url: str, connection_limit: int | None, *, rotate: bool) -> Login:
    """A new password for a new or, with `rotate`, an existing login. Touches no database.

    Raises CommandRefused for a name that no pod's login may have.
    """
    owner = (urlsplit(owners_url).username or "").split(".")[0]
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) or name.startswith("pg_"):
        raise CommandRefused(f"{name!r} cannot be a login's name: letters a-z, digits and _, for example likeness_pod")
    if name == owner:
        raise CommandRefused(
            f"DATABASE_URL is {name}'s own: set it to the URL of the database's owner, "
            "and take a name of the pod's own, for example likeness_pod"
        )
    if name in ("postgres", "likeness_worker", "anon", "authenticated", "service_role", "authenticator"):
        raise CommandRefused(f"{name} is somebody else already; take a name of the pod's own, for example likeness_pod")
    password = secrets.token_urlsafe(24)
    verifier = _scram_verifier(password, name)
    role = sql.Identifier(name)
    limit = sql.SQL("" if connection_limit is None else f" connection limit {int(connection_limit)}")
    if rotate:
        statements = [sql.SQL("alter role {}{} password {}").format(role, limit, sql.Literal(verifier))]
    else:
        statements = [
            sql.SQL("create role {} login{} password {} in role likeness_worker").format(
                role, limit, sql.Literal(verifier)
            ),
            sql.SQL("alter role {} set statement_timeout = {}").format(role, sql.Literal(STATEMENT_TIMEOUT)),
            sql.SQL("alter role {} set idle_in_transaction_session_timeout = {}").format(
                role, sql.Literal(IDLE_IN_TRANSACTION_TIMEOUT)
            ),
        ]
    return Login(name, [statement.as_string() for statement in statements], _addresses(owners_url, name, password))


def apply_login(connection: Connection, login: Login, *, rotate: bool) -> None:
    """Run the statements. Raises CommandRefused when the role is there already, or is no pod's to rotate."""
    found = connection.execute(
        # Whoever made likeness_worker is its member too, the schema's owner for one.
        """select rolcanlogin and not rolsuper and not rolcreaterole and not rolcreatedb
                  and pg_has_role(oid, 'likeness_worker', 'member') as a_pods
           from pg_roles where rolname = %s""",
        [login.name],
    ).fetchone()
    if rotate and found is None:
        raise CommandRefused(f"there is no role {login.name} to rotate: leave --rotate out to make it")
    if rotate and not (found and found["a_pods"]):
        raise CommandRefused(f"{login.name} is no pod's login in likeness_worker: its password stays as it is")
    if not rotate and found is not None:
        raise CommandRefused(f"there is a role {login.name} already: --rotate gives it a new password")
    with connection.transaction():
        for statement in login.statements:
            connection.execute(statement.encode())


def _scram_verifier(password: str, name: str) -> str:
    # libpq makes it by itself; it only wants a connection to keep its errors in, which need not lead anywhere.
    nowhere = pq.PGconn.connect_start(b"host=/nonexistent")
    try:
        return nowhere.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    finally:
        nowhere.finish()


def _addresses(owners_url: str, name: str, password: str) -> dict[str, str]:
    """What a pod's DATABASE_URL is, by the way it takes."""
    host = urlsplit(owners_url).hostname or ""
    owner = urlsplit(owners_url).username or ""
    if host.endswith(".pooler.supabase.com"):
        _, _, ref = owner.partition(".")
        pooler = _hosts(owners_url).replace(":6543", ":5432")
        return {
            "session pooler (for pods without IPv6)": _address(owners_url, f"{name}.{ref}", password, pooler),
            "direct (IPv6)": _address(owners_url, name, password, f"db.{ref}.supabase.co:5432"),
        }
    direct = _address(owners_url, name, password, _hosts(owners_url))
    supabase = re.fullmatch(r"db\.([a-z0-9]+)\.supabase\.co", host)
    if not supabase:
        return {"direct": direct}
    # The project's pooler has a host of its own, which only the dashboard tells.
    pooled = _address(owners_url, f"{name}.{supabase[1]}", password, "POOLER_HOST:5432")
    return {
        "direct (IPv6)": direct,
        "session pooler (for pods without IPv6; POOLER_HOST: dashboard, Connect → Session pooler)": pooled,
    }


def _hosts(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _address(owners_url: str, user: str, password: str, hosts: str) -> str:
    """The owner's address with other credentials; those that stood behind the `?` are left out too."""
    parts = urlsplit(owners_url)
    options = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("user", "password", "passfile")]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{hosts}", query=urlencode(options, safe="/")))

"""`worker role`: a login for a pod, as SQL that the database's owner runs, and the addresses for the pod.

The SQL contains a SCRAM verifier, never the password, because statements appear in server logs. Only the printed
addresses contain the password.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from psycopg import pq, sql

from worker.database.owner import Connection
from worker.database.session_settings import IDLE_IN_TRANSACTION_TIMEOUT, STATEMENT_TIMEOUT
from worker.errors import CommandRefused


@dataclass(frozen=True)
class Login:
    """A pod's login: `statements` create it or change its password, `addresses` are for the pod's DATABASE_URL."""

    name: str
    statements: list[str]
    addresses: dict[str, str]

    @property
    def script(self) -> str:
        """Return the statements in a transaction: `psql` continues after errors, and would change an existing role."""
        return "".join(f"{statement};\n" for statement in ("begin", *self.statements, "commit"))


def make_login(name: str, owners_url: str, connection_limit: int | None, *, rotate: bool) -> Login:
    """Return a new or, with `rotate`, an existing login with a new password, without using the database.

    Raises CommandRefused for a name that a pod's login may not have.
    """
    owner = (urlsplit(owners_url).username or "").split(".")[0]
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) or name.startswith("pg_"):
        raise CommandRefused(
            f"{name!r} is not a valid login name: use letters a-z, digits and _, for example likeness_pod"
        )
    if name == owner:
        raise CommandRefused(
            f"DATABASE_URL is the URL of {name}: set it to the URL of the database's owner, "
            "and choose another name for the pod, for example likeness_pod"
        )
    if name in ("postgres", "likeness_worker", "anon", "authenticated", "service_role", "authenticator"):
        raise CommandRefused(
            f"{name} is a role of the system; choose another name for the pod, for example likeness_pod"
        )
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
    """Run the statements. Raises CommandRefused if the role exists already, or is not a pod's login to rotate."""
    found = connection.execute(
        # The role that created likeness_worker, such as the schema's owner, is a member too.
        """select rolcanlogin and not rolsuper and not rolcreaterole and not rolcreatedb
                  and pg_has_role(oid, 'likeness_worker', 'member') as a_pods
           from pg_roles where rolname = %s""",
        [login.name],
    ).fetchone()
    if rotate and found is None:
        raise CommandRefused(f"role {login.name} not found: leave --rotate out to create it")
    if rotate and not (found and found["a_pods"]):
        raise CommandRefused(f"{login.name} is not a pod's login in likeness_worker: its password was not changed")
    if not rotate and found is not None:
        raise CommandRefused(f"role {login.name} already exists: --rotate gives it a new password")
    with connection.transaction():
        for statement in login.statements:
            connection.execute(statement.encode())


def _scram_verifier(password: str, name: str) -> str:
    # libpq computes it locally; it needs a connection only to store errors in, which need not reach a server.
    nowhere = pq.PGconn.connect_start(b"host=/nonexistent")
    try:
        return nowhere.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    finally:
        nowhere.finish()


def _addresses(owners_url: str, name: str, password: str) -> dict[str, str]:
    """Return the possible DATABASE_URLs of a pod, by the kind of connection."""
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
    # The project's pooler has a host of its own, which only the dashboard shows.
    pooled = _address(owners_url, f"{name}.{supabase[1]}", password, "POOLER_HOST:5432")
    return {
        "direct (IPv6)": direct,
        "session pooler (for pods without IPv6; POOLER_HOST: dashboard, Connect → Session pooler)": pooled,
    }


def _hosts(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _address(owners_url: str, user: str, password: str, hosts: str) -> str:
    """Return the owner's address with other credentials; those behind the `?` are removed too."""
    parts = urlsplit(owners_url)
    options = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("user", "password", "passfile")]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{hosts}", query=urlencode(options, safe="/")))

"""Awkward settings of a database or role, and the ways to reach a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.pgbouncer import PROGRAM, pgbouncer

AWKWARD: Mapping[str, str] = {
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "check_function_bodies": "off",
    "client_encoding": "latin1",
    "client_min_messages": "error",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "gin_fuzzy_search_limit": "1",
    "idle_in_transaction_session_timeout": "300ms",
    "idle_session_timeout": "900ms",
    "jit": "on",
    "jit_above_cost": "0",
    "lock_timeout": "1ms",
    "plan_cache_mode": "force_generic_plan",
    "plpgsql.extra_errors": "all",
    "quote_all_identifiers": "on",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "row_security": "off",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "statement_timeout": "700ms",
    "transaction_timeout": "800ms",
    "transform_null_equals": "on",
    "xmlbinary": "hex",
    "xmloption": "document",
}
"""Each was, or could be, what ended a pod; the timeouts are shorter than a copy or a migration may take."""

WAYS = [
    "direct",
    *(
        pytest.param(f"PgBouncer, {mode}", marks=pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer here"))
        for mode in ("session", "transaction")
    ),
]


@contextmanager
def reached_by(way: str, folder: Path, url: str) -> Iterator[str]:
    """Yield the address by which clients reach the database of `url` this way. Its roles must exist already."""
    if way == "direct":
        yield url
        return
    with pgbouncer(folder / "pgbouncer", url, way.rpartition(" ")[2]) as pooled:
        yield pooled


def identifier(setting: str) -> sql.Identifier:
    """Return a setting's name for a statement: those of a module have two parts."""
    return sql.Identifier(*setting.split("."))


def set_all(url: str, database: str, settings: Mapping[str, str]) -> None:
    """Set them on a database, but those that its server, being older, does not know; over another database's `url`."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("load 'plpgsql'")  # which brings settings of its own
        for name, value in settings.items():
            (known,) = connection.execute("select current_setting(%s, true) is not null", [name]).fetchone() or (False,)
            if known:
                values = sql.SQL(", ").join(map(sql.Literal, value.split(", ")))
                what = (sql.Identifier(database), identifier(name), values)
                connection.execute(sql.SQL("alter database {} set {} = {}").format(*what))


def reset_all(url: str, database: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("alter database {} reset all").format(sql.Identifier(database)))

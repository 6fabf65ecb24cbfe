"""A server or database on which the schema could not work is refused by name, before anything is created."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.sql.files import psql
from tests.sql.supabase import Supabase
from tests.waiting import wait_until
from worker.database.schema import migrate
from worker.database.schema.migrate import MigrationError
from worker.database.schema.printed import render
from worker.demo.servers import EmbeddedPostgres


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def relations(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            """select oid::regclass::text from pg_class
               where relnamespace::regnamespace::text in ('public', 'worker', 'auth', 'storage')"""
        ).fetchall()
    return [name for (name,) in found]


def test_a_database_that_is_not_utf8_is_refused_with_the_statement_that_creates_one(
    any_supabase: Supabase, tmp_path: Path
) -> None:
    server = any_supabase.server
    for encoding in ("SQL_ASCII", "LATIN1"):
        form = "create database wrong_{0} template template0 encoding '{0}' locale 'C' locale_provider libc"
        execute(server.url(), form.format(encoding))
        url = server.url(f"wrong_{encoding.lower()}")
        for attempt in (migrate.install_supabase_stubs, migrate.migrate):
            with pytest.raises(MigrationError, match=f"has the encoding {encoding}, but prompts and names") as refused:
                attempt(url)
        assert f"has the encoding {encoding}" in psql(url, render(), tmp_path).stderr
        assert relations(url) == []
    (statement,) = re.findall(r"create database .*;", str(refused.value))
    execute(server.url(), statement)
    migrate.install_supabase_stubs(server.url("likeness"))
    assert migrate.migrate(server.url("likeness")) != []


def test_a_read_only_server_is_named(supabase: Supabase, tmp_path: Path) -> None:
    """Supabase makes a server read-only while its disk is full."""
    url, superuser = supabase.create(), supabase.server.url()
    execute(superuser, "alter system set default_transaction_read_only = on")
    try:
        _reload(superuser, "on")
        for attempt in (migrate.migrate, migrate.repair):
            with pytest.raises(MigrationError, match=r"this database is read-only.*disk is full"):
                attempt(url)
        assert "this database is read-only" in psql(url, render(), tmp_path).stderr
    finally:
        execute(superuser, "alter system reset default_transaction_read_only")
        _reload(superuser, "off")


def _reload(url: str, value: str) -> None:
    execute(url, "select pg_reload_conf()")
    wait_until(lambda: _new_session_says(url) == value, "new sessions to have the setting")


def _new_session_says(url: str) -> str:
    with psycopg.connect(url) as connection:
        (value,) = connection.execute("show default_transaction_read_only").fetchone() or ("",)
    return str(value)


@pytest.fixture
def replica(supabase: Supabase, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A standby of the server, which follows it."""
    copy = EmbeddedPostgres(tmp_path / "replica", fast=True)
    (tmp_path / "replica").mkdir()
    subprocess.run(
        [
            *(supabase.server.programs / "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast"),
            *(f"--pgdata={tmp_path / 'replica' / 'data'}", f"--dbname={supabase.server.url()}"),
        ],
        check=True,
        capture_output=True,
    )
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "nobody", tmp_path / "replica"], check=True)
    with copy:
        yield copy


def test_a_replica_is_named(supabase: Supabase, tmp_path: Path, replica: EmbeddedPostgres) -> None:
    with pytest.raises(MigrationError, match=r"is a replica, which cannot be changed\. Migrate the primary"):
        migrate.migrate(replica.url())


AWKWARD = (
    "standard_conforming_strings = off",
    "client_encoding = 'LATIN1'",
    "default_transaction_isolation = 'serializable'",
    "check_function_bodies = off",
    "quote_all_identifiers = on",
    "row_security = off",
    "bytea_output = 'escape'",
    "DateStyle = 'German'",
    "IntervalStyle = 'iso_8601'",
    "search_path = ''",
)


def test_the_settings_of_the_login_change_neither_the_migration_nor_the_comparison(supabase: Supabase) -> None:
    url = supabase.create()
    name = url.rpartition("/")[2]
    for setting in AWKWARD:
        execute(url, f"alter database {name} set {setting}")
    migrate.migrate(url)
    assert migrate.damage(url) == []
    execute(url, f"alter database {name} reset all")
    assert migrate.damage(url) == []
    # Each on its own changes no comparison either.
    for setting in AWKWARD:
        execute(url, f"alter database {name} set {setting}")
        assert migrate.damage(url) == [], setting
        execute(url, f"alter database {name} reset all")


def test_a_login_that_does_not_own_the_schema_is_told_who_does(supabase: Supabase) -> None:
    url = supabase.migrated()
    execute(url, "create role stranger login createrole")
    try:
        with pytest.raises(MigrationError, match="belongs to project_owner, and stranger is not a member"):
            migrate.migrate(url.replace("project_owner@", "stranger@"))
    finally:
        execute(url, "drop role stranger")

"""`worker migrate` and its printed SQL: repeatable, equal, all or nothing, and safe for existing objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.sql.catalog import differences, policy_oids, snapshot
from tests.sql.files import next_release, psql
from tests.sql.pod import as_worker
from tests.sql.supabase import PROJECTS, Supabase, Supabases
from tests.waiting import wait_until
from worker.database.schema import migrate
from worker.database.schema.migrate import MigrationError
from worker.database.schema.printed import render
from worker.database.schema.sql_files import numbered_files, repeatable_files, sql_folder
from worker.demo.servers import EmbeddedPostgres

NUMBERED = [file.name for file in numbered_files()]
REPEATABLE = [file.name for file in repeatable_files()]
NEWEST = int(NUMBERED[-1][:4])
"""The number of the last migration of this release; those that the tests add have much higher numbers."""
ADDED_COLUMN = "alter table public.presets add column mood text; comment on column public.presets.mood is 'New here.';"


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- repeatable


@PROJECTS
def test_migrating_again_changes_nothing(supabases: Supabases, version: str, grants_by_default: bool) -> None:
    url = supabases.of(version).create(grants_by_default=grants_by_default)
    assert migrate.migrate(url) == [*NUMBERED, *REPEATABLE]
    before = snapshot(url)
    assert len(before) > 500, "a nearly empty snapshot would prove nothing"
    assert migrate.migrate(url) == []
    assert differences(before, snapshot(url)) == {}


def test_running_every_repeatable_file_again_changes_nothing(any_supabase: Supabase, tmp_path: Path) -> None:
    url = any_supabase.migrated(grants_by_default=True)
    before, policies = snapshot(url), policy_oids(url)
    assert migrate.migrate(url, next_release(tmp_path)) == REPEATABLE
    assert list(differences(before, snapshot(url))) == ["row of worker.schema_versions views"]
    assert policy_oids(url) == policies


def test_two_migrations_at_once_apply_every_file_once(supabase: Supabase) -> None:
    url = supabase.create()
    with ThreadPoolExecutor() as threads:
        applied = [run.result() for run in [threads.submit(migrate.migrate, url) for _ in range(2)]]
    assert sorted(applied) == [[], [*NUMBERED, *REPEATABLE]]


# ------------------------------------------------------------------------------------------------------- the two routes


@PROJECTS
def test_the_printed_sql_creates_the_same_database(
    supabases: Supabases, version: str, grants_by_default: bool, tmp_path: Path
) -> None:
    supabase = supabases.of(version)
    applied = supabase.migrated(grants_by_default=grants_by_default)
    printed = supabase.create(grants_by_default=grants_by_default)
    result = psql(printed, render(), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "", "psql must print no results"
    assert differences(snapshot(applied), snapshot(printed)) == {}
    assert migrate.migrate(printed) == []


def test_the_printed_sql_has_no_psql_commands_and_no_transaction() -> None:
    text = render()
    assert re.search(r"^\s*\\", text, re.MULTILINE) is None, "psql commands are not SQL"
    assert re.search(r"^\s*(begin|commit|rollback|start transaction)\s*;", text, re.MULTILINE | re.IGNORECASE) is None


def test_the_printed_sql_states_how_to_apply_it() -> None:
    assert "psql -1 -v ON_ERROR_STOP=1" in render()[:400]


def test_since_an_unknown_migration_is_refused_with_the_newest() -> None:
    with pytest.raises(MigrationError, match=f"migration 99 not found: the newest is {NEWEST}, {NUMBERED[-1]}"):
        render(99)


def test_the_next_release_can_be_applied_by_the_other_route(supabase: Supabase, tmp_path: Path) -> None:
    release = next_release(tmp_path, _9001_mood=ADDED_COLUMN)
    whole, printed_first, printed_second = supabase.create(), supabase.create(), supabase.migrated()
    migrate.migrate(whole, release)

    assert psql(printed_first, render(), tmp_path).returncode == 0
    assert migrate.migrate(printed_first, release) == ["9001_mood", *REPEATABLE]
    assert differences(snapshot(whole), snapshot(printed_first)) == {}

    result = psql(printed_second, render(NEWEST, release), tmp_path)
    assert result.returncode == 0, result.stderr
    assert differences(snapshot(whole), snapshot(printed_second)) == {}
    assert migrate.migrate(printed_second, release) == []


def test_printed_sql_since_the_wrong_release_is_refused_by_name(supabase: Supabase, tmp_path: Path) -> None:
    release = next_release(tmp_path, _9001_mood=ADDED_COLUMN)
    empty, migrated = supabase.create(), supabase.migrated()
    before = {url: snapshot(url) for url in (empty, migrated)}
    for url, since, complaint in (
        (migrated, 0, f"applied here already: {', '.join(NUMBERED)}"),
        (migrated, 1, f"applied here already: {', '.join(NUMBERED[1:])}"),
        (migrated, 9001, "not applied here yet: 9001_mood"),
        (empty, NEWEST, f"not applied here yet: {', '.join(NUMBERED)}"),
    ):
        result = psql(url, render(since, release), tmp_path)
        assert result.returncode != 0
        assert complaint in result.stderr
        assert differences(before[url], snapshot(url)) == {}


# ------------------------------------------------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("migrated", [False, True], ids=["empty database", "migrated database"])
def test_a_failing_file_is_named_and_changes_nothing(supabase: Supabase, tmp_path: Path, migrated: bool) -> None:
    release = next_release(tmp_path, _9001_mood=ADDED_COLUMN, _9002_broken="alter table public.nowhere add x int;")
    url = supabase.migrated() if migrated else supabase.create()
    before = snapshot(url)
    with pytest.raises(MigrationError, match=r"9002_broken\.sql: .*public\.nowhere.* Nothing was changed"):
        migrate.migrate(url, release)
    assert differences(before, snapshot(url)) == {}
    assert psql(url, render(NEWEST if migrated else 0, release), tmp_path).returncode != 0
    assert differences(before, snapshot(url)) == {}


def test_an_applied_file_that_was_edited_is_refused_by_name(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated()
    before = snapshot(url)
    release = next_release(tmp_path, _9001_mood=ADDED_COLUMN)
    with (release / "migrations" / "0002_tables.sql").open("a") as file:
        file.write("-- an afterthought\n")
    with pytest.raises(MigrationError, match=r"0002_tables\.sql was changed after it was applied here"):
        migrate.migrate(url, release)
    printed = psql(url, render(NEWEST, release), tmp_path)
    assert printed.returncode != 0
    assert "changed after they were applied here: 0002_tables" in printed.stderr
    assert differences(before, snapshot(url)) == {}


def test_an_older_release_is_refused_after_a_newer_one(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.create()
    migrate.migrate(url, next_release(tmp_path, _9001_mood=ADDED_COLUMN))
    before = snapshot(url)
    with pytest.raises(MigrationError, match=r"a newer release was here: this one does not know 9001_mood"):
        migrate.migrate(url)
    printed = psql(url, render(NEWEST), tmp_path)
    assert printed.returncode != 0
    assert "a newer release was here: 9001_mood" in printed.stderr
    assert differences(before, snapshot(url)) == {}


@pytest.mark.parametrize("command", [migrate.migrate, migrate.install_supabase_stubs])
def test_an_unreachable_database_is_named_without_its_password(
    command: Callable[[str], object], unused_tcp_port: int
) -> None:
    with pytest.raises(MigrationError, match=r"127\.0\.0\.1") as refused:
        command(f"postgresql://owner:hunter2@127.0.0.1:{unused_tcp_port}/app")
    assert "hunter2" not in str(refused.value)


def test_a_pods_url_is_refused_with_a_hint_to_the_owners(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated()
    with pytest.raises(MigrationError, match="URL of the database's owner"):
        migrate.migrate(as_worker(url), next_release(tmp_path))


# ----------------------------------------------------------------------------------------------------- existing objects


THEIRS = [
    *(
        (f"public.{table}", f"create table public.{table} (id uuid, mine text)", f"drop table public.{table}")
        for table in ("subjects", "subject_photos", "subjects_models", "presets", "training_jobs", "generation_jobs")
    ),
    (
        "cancel_job",
        "create function public.cancel_job(number bigint) returns text language sql as 'select null'",
        "drop function public.cancel_job",
    ),
    (
        "table worker.shifts",
        "create schema worker; create table worker.shifts (id int primary key)",
        "drop schema worker cascade",
    ),
    (
        "worker.pay",
        "create schema worker; create function worker.pay() returns int language sql as 'select 1'",
        "drop schema worker cascade",
    ),
]
"""The name in the error, and the statements that create and drop something of the app."""


def test_tables_functions_and_a_schema_of_the_app_are_refused_by_name(supabase: Supabase) -> None:
    url = supabase.create()
    for name, create, drop in THEIRS:
        execute(url, create)
        before = snapshot(url)
        with pytest.raises(MigrationError, match=rf"{name}.* already exists and does not belong to this project"):
            migrate.migrate(url)
        assert differences(before, snapshot(url)) == {}
        execute(url, drop)


def test_tables_of_the_app_with_columns_like_ours_are_left_alone(supabase: Supabase) -> None:
    url = supabase.create()
    execute(
        url,
        "create table public.subscriptions (id uuid, cancel_requested_at timestamptz, fingerprint text, status text)",
    )
    before = snapshot(url)
    migrate.migrate(url)
    theirs = {name: value for name, value in snapshot(url).items() if "subscriptions" in name}
    assert theirs == {name: value for name, value in before.items() if "subscriptions" in name} != {}


def test_every_table_and_function_of_public_is_guarded_against_overwriting(supabase: Supabase) -> None:
    url = supabase.migrated()
    guards = [sql_folder() / "preflight.sql", *(sql_folder() / "migrations").glob("*.sql")]
    guarded = "".join(path.read_text() for path in guards)
    created = re.findall(r"^(?:relation|function) public\.(\w+)", "\n".join(snapshot(url)), re.MULTILINE)
    assert len(created) > 10
    assert [
        name for name in created if f"'{name}'" not in guarded and f"to_regclass('public.{name}')" not in guarded
    ] == []


def test_a_plain_postgres_is_refused_until_the_stubs_are_installed(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", fast=True) as server:
        url = server.url()
        before = snapshot(url)
        with pytest.raises(MigrationError) as refused:
            migrate.migrate(url)
        for missing in (
            "role anon",
            "role authenticated",
            "role service_role",
            "table auth.users",
            "table storage.objects",
            "function auth.uid()",
            "function storage.foldername(text)",
            "--supabase-stubs",
        ):
            assert missing in str(refused.value)
        assert differences(before, snapshot(url)) == {}
        assert migrate.install_supabase_stubs(url)
        assert not migrate.install_supabase_stubs(url)
        assert migrate.migrate(url) == [*NUMBERED, *REPEATABLE]


def test_supabase_stubs_never_touch_a_supabase_project(supabase: Supabase) -> None:
    url = supabase.create()
    before = snapshot(url)
    for user in (url, supabase.superuser_url(url)):
        assert not migrate.install_supabase_stubs(user)
    assert differences(before, snapshot(url)) == {}


# ------------------------------------------------------------------------------------------------------------- policies


def test_only_dropped_and_changed_policies_are_recreated(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated()
    before, policies = snapshot(url), policy_oids(url)
    dropped, loosened, moved = (
        "public.subjects.users can view their own subjects",
        "storage.objects.likeness: users can view what is theirs",
        "public.presets.users can delete their own presets",
    )
    execute(url, 'drop policy "users can view their own subjects" on public.subjects')
    execute(url, 'alter policy "likeness: users can view what is theirs" on storage.objects using (true)')
    execute(url, 'alter policy "users can delete their own presets" on public.presets to public')

    migrate.migrate(url, next_release(tmp_path))

    assert list(differences(before, snapshot(url))) == ["row of worker.schema_versions views"]
    recreated = {name for name, oid in policy_oids(url).items() if policies[name] != oid}
    assert recreated == {name.removeprefix("public.") for name in (dropped, moved)} | {loosened}


def test_policies_do_not_wait_long_for_a_busy_storage_table(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated()
    with psycopg.connect(supabase.superuser_url(url)) as upload:
        upload.execute("lock table storage.objects in row exclusive mode")
        # Unchanged policies lock nothing: the next release applies during the upload.
        migrate.migrate(url, next_release(tmp_path / "unchanged"))
        upload.rollback()
    execute(url, 'drop policy "likeness: users can view what is theirs" on storage.objects')
    before = snapshot(url)
    with ThreadPoolExecutor() as threads, psycopg.connect(supabase.superuser_url(url)) as upload:
        upload.execute("lock table storage.objects in row exclusive mode")
        migration = threads.submit(migrate.migrate, url, next_release(tmp_path / "changed"))
        try:
            wait_until(migration.done, "the migration to give up", 30)
        finally:
            upload.rollback()
        with pytest.raises(MigrationError, match=r"rls\.sql: .*lock timeout"):
            migration.result()
    assert differences(before, snapshot(url)) == {}
    migrate.migrate(url, tmp_path / "changed" / "sql")
    assert "storage.objects.likeness: users can view what is theirs" in policy_oids(url)

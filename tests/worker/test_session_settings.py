"""A pod, a command and a migration behave the same, whatever the database or the role has set, and behind a pooler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus

from tests.conftest import Databases
from tests.forked import Commands
from tests.processes import worker_environment
from tests.sessions import AWKWARD, WAYS, reached_by, reset_all, set_all
from tests.sql.supabase import VERSIONS
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet, as_pod
from worker.database.connections import OwnConnection
from worker.database.errors import explain_connection
from worker.database.pool import Database
from worker.database.schema import migrate
from worker.database.session_settings import POD_SETTINGS, SETTINGS
from worker.demo.servers import EmbeddedPostgres

LEFT_AS_THEY_ARE = {
    # Who somebody is, or how passwords are stored: `worker role` stores its own.
    *("application_name", "md5_password_warnings", "password_encryption", "scram_iterations", "createrole_self_grant"),
    # Where and how new tables are stored.
    *("default_table_access_method", "default_tablespace", "default_toast_compression", "temp_tablespaces"),
    *("file_copy_method", "gin_pending_list_limit"),
    # Set by each transaction, from default_transaction_*.
    *("transaction_deferrable", "transaction_isolation", "transaction_read_only"),
    # Only where the role or the database sets it.
    "default_transaction_read_only",
    # Nothing here uses them: full text search, ICU collations, time zones by abbreviation.
    *("default_text_search_config", "icu_validation_level", "timezone_abbreviations"),
    # A connection's own parameter.
    "client_encoding",
    # A broken connection is noticed earlier or later.
    *("client_connection_check_interval", "tcp_keepalives_count", "tcp_keepalives_idle", "tcp_keepalives_interval"),
    "tcp_user_timeout",
    # A warning, the order of rows without ORDER BY, libraries that an administrator loads.
    *("escape_string_warning", "synchronize_seqscans", "local_preload_libraries"),
}
CANNOT_CHANGE_A_RESULT = (
    *("Autovacuum", "Developer Options", "Query Tuning", "Replication", "Reporting and Logging", "Resource Usage"),
    *("Statistics", "Vacuuming", "Write-Ahead Log"),
)
"""Categories."""


@pytest.fixture(scope="module")
def server_of(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], EmbeddedPostgres]]:
    """Return the server of a version, started once."""
    servers = {"18": databases.server}
    with ExitStack() as stack:

        def server(version: str) -> EmbeddedPostgres:
            if version not in servers:
                folder = tmp_path_factory.mktemp("older")
                servers[version] = stack.enter_context(EmbeddedPostgres(folder, fast=True, bin_dir=VERSIONS[version]))
            return servers[version]

        yield server


@pytest.fixture
def awkward(server_of: Callable[[str], EmbeddedPostgres], version: str) -> Iterator[str]:
    """The address of an empty database on which everything awkward is set."""
    server, name = server_of(version), f"awkward_{uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    set_all(server.url(), name, AWKWARD)
    yield server.url(name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


every_version = pytest.mark.parametrize("version", list(VERSIONS))


@every_version
@pytest.mark.parametrize("way", WAYS)
async def test_sessions_have_the_settings_of_this_project(awkward: str, way: str, tmp_path: Path) -> None:
    values = "select name, current_setting(name) as value from pg_catalog.pg_settings where name = any(%s)"
    with reached_by(way, tmp_path, awkward) as url:
        async with Database(url, "test") as database:
            pods = await database.fetch(values, [[*POD_SETTINGS]])
            encoding, writable = await database.fetch(
                """select current_setting('client_encoding') as value
                   union all select current_setting('transaction_read_only')"""
            )
            async with database.transaction() as connection:
                in_transaction = await (await connection.execute(values, [[*POD_SETTINGS]])).fetchall()
            for statement, value, error in (
                ("select 1 / %s", 0, psycopg.errors.DivisionByZero),
                ("select %s", "\0", psycopg.DataError),
            ):
                async with database.pooled() as one:
                    with pytest.raises(error):
                        await one.execute(statement, [value])
                    assert one.info.transaction_status == TransactionStatus.IDLE
            times = await database.fetch(
                "select interval '1 day 2 s' as pause, '2030-05-06 07:08+00'::timestamptz as at, 'ł' as letter"
            )
        with OwnConnection.open(url, "test") as command:
            commands = command.execute(values, [[*SETTINGS]]).fetchall()
    for found, wanted in ((pods, POD_SETTINGS), (in_transaction, POD_SETTINGS), (commands, SETTINGS)):
        assert {row["name"]: row["value"] for row in found} == {
            row["name"]: _as_shown(wanted[row["name"]]) for row in found
        }
        assert len(found) > len(wanted) - 3  # PostgreSQL 15 does not know the newest
    assert (encoding["value"], writable["value"]) == ("UTF8", "off")
    assert str(times[0]["pause"]) == "1 day, 0:00:02"
    assert times[0]["at"].isoformat() == "2030-05-06T07:08:00+00:00"
    assert times[0]["letter"] == "ł"


def _as_shown(value: str) -> str:
    return {"60s": "1min"}.get(value, value)


@every_version
def test_each_setting_that_a_role_may_have_is_decided(
    server_of: Callable[[str], EmbeddedPostgres], version: str
) -> None:
    with psycopg.connect(server_of(version).url()) as connection:
        rows = connection.execute("select name, category from pg_settings where context = 'user'").fetchall()
    undecided = [
        name
        for name, category in rows
        if name not in SETTINGS
        and name not in LEFT_AS_THEY_ARE
        and not category.startswith(CANNOT_CHANGE_A_RESULT)
        and not name.startswith("vacuum_")  # in PostgreSQL 15 of another category
    ]
    assert undecided == []
    assert {name for name in AWKWARD if name not in SETTINGS} == {
        *("client_encoding", "default_transaction_read_only", "jit_above_cost"),
        "plpgsql.extra_errors",  # no function of this project does what it refuses
    }


async def test_a_pooler_s_other_clients_keep_their_own_settings(databases: Databases, tmp_path: Path) -> None:
    """What a session behind a transaction pooler sets, its next user has."""
    if WAYS[-1].marks[0].args[0]:
        pytest.skip("pgbouncer is not installed")
    with reached_by("PgBouncer, transaction", tmp_path, databases.server.url("template1")) as url:
        async with Database(url, "test") as database:
            await database.fetch("select 1")
            async with database.transaction() as connection:
                await connection.execute("select 1")
        with OwnConnection.open(url, "test") as command:
            command.execute("select 1")
        with psycopg.connect(url) as other:
            (found,) = other.execute("select current_setting('search_path')").fetchone() or ("",)
    assert "public" in found


async def test_a_server_that_is_read_only_stays_so(tmp_path: Path) -> None:
    """As Supabase makes it while the disk is full, also for sessions that are open."""
    with (
        EmbeddedPostgres(tmp_path / "server", fast=True) as server,
        psycopg.connect(server.url(), autocommit=True) as administrator,
    ):
        administrator.execute("create role pod login")
        async with Database(server.url(), "test") as database:
            await database.fetch("create table public.before ()")
            administrator.execute("alter system set default_transaction_read_only = on")
            administrator.execute("select pg_reload_conf()")
            async with Database(server.url(user="pod"), "test") as other:
                for one in (database, other):
                    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                        await one.fetch("create table public.x ()")


@pytest.mark.parametrize("version", ["15"])
def test_the_whole_line_runs(make_fleet: MakeFleet, awkward: str, tmp_path: Path, commands: Commands) -> None:
    """From migrate over INSERT, training, its copy and a picture to the commands that show them."""
    with line_on(make_fleet, awkward, WAYS[0], tmp_path, commands) as (fleet, shows):
        picture = fleet.draw()
        fleet.completed("training", fleet.train(subject_id=fleet.person()))
        fleet.completed("generation", picture)
        (copy,) = fleet.app.run("select id from worker.internal_jobs")
        assert fleet.completed("publish_lora", copy["id"])["result"]["copied"]
        shows |= {f"job {picture}": "completed", "migrate": "nothing"}


@pytest.mark.parametrize(("version", "way"), [pytest.param("18", WAYS[-1].values[0], marks=WAYS[-1].marks)])
def test_a_line_runs_behind_a_pooler(
    make_echo_fleet: MakeFleet, awkward: str, way: str, tmp_path: Path, commands: Commands
) -> None:
    """With jobs that need no models: the way to the database is the same for all."""
    environment = {"WORKER_KINDS": "echo,publish_lora"}
    with line_on(make_echo_fleet, awkward, way, tmp_path, commands, **environment) as (fleet, shows):
        person = fleet.app.add_subject()
        said = fleet.echo(subject_id=person)
        fleet.completed("echo", said)
        assert fleet.completed("publish_lora", fleet.copy_lora(person))["result"]["copied"]
        shows |= {f"job {said}": "completed", "migrate --without likeness-echo": "nothing"}


@contextmanager
def line_on(
    make_fleet: MakeFleet, awkward: str, way: str, folder: Path, commands: Commands, **environment: str
) -> Iterator[tuple[Fleet, dict[str, str]]]:
    """Migrate and start a pod; in the end, run commands, and those that are added with what they show; stop the pod."""
    server_url, _, name = awkward.rpartition("/")
    migrate.install_supabase_stubs(awkward)
    assert migrate.migrate(awkward) != []
    reset_all(f"{server_url}/postgres", name)  # for the app, which was there before
    fleet = make_fleet(awkward, **environment)
    set_all(f"{server_url}/postgres", name, AWKWARD)
    with reached_by(way, folder, awkward) as url:
        worker = fleet.start(DATABASE_URL=as_pod(url))
        shows = {"status": "Failed in the last"}
        yield fleet, shows
        settings = {**worker_environment(fleet.app, folder), "DATABASE_URL": url}
        for command, shown in shows.items():
            ran = commands.run(command.split(), settings, folder)
            assert ran.code == 0, ran.stderr
            assert shown in ran.stdout + ran.stderr
        assert worker.terminate() == 0
        assert [line for line in worker.log() if line.get("level") == "error"] == (
            worker.events("session.listen_unsupported")
        )


def test_a_timeout_that_is_too_short_to_connect_is_named(databases: Databases) -> None:
    with psycopg.connect(databases.server.url("postgres")) as connection:
        connection.execute("set statement_timeout = '1ms'")
        with pytest.raises(psycopg.OperationalError) as refused:
            connection.execute("select pg_sleep(10)")
    told = str(explain_connection(refused.value, "DATABASE_URL"))
    assert "due to statement timeout" in told
    assert "statement_timeout of this login or database is too short even to connect" in told

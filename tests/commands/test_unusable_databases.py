"""Every command that connects names what is wrong with the database, and shows no traceback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from tests.app import App
from tests.commands.conftest import Installation, Operator
from tests.commands.test_cli import CONNECTING, EVERY
from tests.conftest import Databases
from tests.processes import worker_environment
from tests.waiting import wait_until
from worker import cli
from worker.commands.checks.database import check_database
from worker.commands.checks.examine import examine
from worker.commands.checks.report import Finding, Report, State
from worker.database.schema.sql_files import MigrationError
from worker.demo.servers import EmbeddedPostgres
from worker.errors import StorageError
from worker.settings import Settings

WRITING = [
    "migrate",
    "migrate --supabase-stubs",
    "migrate --repair",
    "role likeness_pod --apply",
    "installation moved",
    "installation adopt",
]
"""Commands that change the database, so that what runs after them finds another one."""
READING = [command for command in CONNECTING if command not in WRITING]
OFFLINE = {"demo", "health", "models pull", "models push", "models import", "screen", "storage init"}
"""Commands that connect to no database, or to one of their own."""

DAMAGE = {
    "unmigrated": "drop schema worker cascade",
    "half restored": "drop function worker.schema_major, worker.is_alive cascade; drop view worker.job_details",
    "of another project": "drop schema worker cascade; create schema worker; create table worker.config (id int)",
    "without rows": "truncate worker.config, worker.schema_versions, worker.base_models cascade",
}
WRITES = {"unmigrated": ["installation moved"], "of another project": ["migrate", "role likeness_pod --apply"]}
"""The writing commands that are tried; where nothing is named, all. Each needs a database of its own."""
ADVICE = {
    ("status", "unmigrated"): "worker migrate",
    ("status", "half restored"): "worker migrate --repair",
    ("run", "unmigrated"): "worker migrate",
    ("doctor", "unmigrated"): "worker migrate",
    ("run", "without rows"): "worker.config has no row",
    ("doctor", "without rows"): "worker.config has no row",
    ("migrate", "half restored"): "worker migrate --repair",
    ("migrate", "without rows"): "worker.schema_versions is missing or empty",
    ("migrate", "of another project"): "does not belong to this project",
}


def test_every_command_is_known_to_connect_or_not() -> None:
    connecting = {" ".join(words) for words in EVERY if any(_begins(command, words) for command in CONNECTING)}
    groups = {" ".join(words) for words, command in EVERY.items() if hasattr(command, "commands")}
    shown_by_default = {"job show"}
    assert {" ".join(words) for words in EVERY} == connecting | groups | OFFLINE | shown_by_default


def _begins(command: str, words: tuple[str, ...]) -> bool:
    return tuple(command.split()[: len(words)]) == words


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_command_ends_in_a_traceback(operator: Operator, guarded: Databases, damage: str) -> None:
    operator.app.run(DAMAGE[damage])
    for command in READING:
        check(operator, command, damage)
    for command in WRITES.get(damage, WRITING):
        with guarded.fresh() as url, App.create(url, operator.app.s3_server) as app:
            app.run(DAMAGE[damage])
            settings = worker_environment(app, Path(operator.environment["MODELS_DIR"]))
            check(Operator(app, operator.folder, operator.commands, settings), command, damage)


def check(operator: Operator, command: str, damage: str) -> None:
    # A worker that finds its database usable ends at the next check.
    settings = {"CUDA_VISIBLE_DEVICES": "", "WORKER_KINDS": "no_such_kind"}
    ran = operator.run(command, **settings)
    assert "Traceback" not in ran.stdout + ran.stderr, command
    assert "report it as a bug" not in ran.stdout, command
    assert ADVICE.get((command, damage), "") in ran.stdout + ran.stderr, command


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (psycopg.errors.DiskFull("no space"), "disk is full"),
        (psycopg.errors.ReadOnlySqlTransaction("cannot"), "read-only"),
        (psycopg.InterfaceError("closed"), "the connection broke"),
        (PermissionError(13, "Permission denied", "/models"), "/models: Permission denied"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (StorageError("the store did not respond"), "the store did not respond"),
        (MigrationError("applied files were edited"), "applied files were edited"),
    ],
)
def test_what_goes_wrong_outside_of_the_program_ends_any_command_by_name(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert said in capsys.readouterr().err


def test_a_bug_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(KeyError):
        cli.main()


@pytest.fixture
def read_only(operator: Operator) -> Iterator[Operator]:
    """The whole server is read-only, as Supabase makes it while the disk is full."""
    app = operator.app
    app.run("alter system set default_transaction_read_only = on")
    app.run("select pg_reload_conf()")
    app.run("set default_transaction_read_only = off")
    wait_until(lambda: _new_session_says(app.url) == "on", "the server to be read-only")
    yield operator
    app.run("alter system reset default_transaction_read_only")
    app.run("select pg_reload_conf()")
    wait_until(lambda: _new_session_says(app.url) == "off", "the server to be writable")


def _new_session_says(url: str) -> str:
    with psycopg.connect(url) as connection:
        (value,) = connection.execute("show default_transaction_read_only").fetchone() or ("",)
    return str(value)


def test_a_read_only_database_is_named(read_only: Operator) -> None:
    for command in ("doctor", "run", "status", "migrate", "migrate --repair", "role likeness_pod --apply"):
        ran = read_only.run(command, CUDA_VISIBLE_DEVICES="")
        assert "is read-only" in ran.stdout + ran.stderr, command
        assert "Traceback" not in ran.stdout + ran.stderr, command


@pytest.fixture(scope="module")
def replica(guarded: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    folder: Path = tmp_path_factory.mktemp("replica")
    rules = guarded.server.folder / "data" / "pg_hba.conf"
    rules.write_text(rules.read_text() + "host replication postgres 127.0.0.1/32 trust\n")
    with psycopg.connect(guarded.server.url(), autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")
    subprocess.run(
        [
            *(guarded.server.programs / "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast"),
            *(f"--pgdata={folder / 'data'}", f"--dbname={guarded.server.url()}"),
        ],
        check=True,
        capture_output=True,
    )
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "nobody", folder], check=True)
    with EmbeddedPostgres(folder, fast=True) as server:
        yield server


def test_a_replica_is_named(operator: Operator, replica: EmbeddedPostgres) -> None:
    url = replica.url("likeness_template")
    for command in ("doctor", "run", "status", "migrate", "migrate --repair"):
        ran = operator.run(command, DATABASE_URL=url, CUDA_VISIBLE_DEVICES="")
        assert "this server is a replica" in ran.stdout + ran.stderr, command
        assert "Traceback" not in ran.stdout + ran.stderr, command
    for command in ("role likeness_pod --apply", "job cancel 6a05f1e2"):
        ran = operator.worker(*command.split(), DATABASE_URL=url)
        assert ran.code == 1, command
        assert ran.stderr.startswith("Refused: "), command


@pytest.mark.parametrize("after", ["connection", "base models"])
async def test_doctor_goes_on_when_the_connection_is_cut_in_between(
    installation: Installation, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is a check of its own: what needs the database fails, the others are still made."""
    monkeypatch.setattr("worker.commands.checks.report.DEADLINE_S", 3.0)
    monkeypatch.setattr("worker.database.pool.POOL_WAIT_S", 0.5)
    installation.set(PATH=installation.operator.path_without_gpu())
    elsewhere, _, name = installation.app.url.rpartition("/")
    findings: dict[str, Finding] = {}

    def show(finding: Finding) -> None:
        findings[finding.name] = finding
        if finding.name == after:
            with psycopg.connect(f"{elsewhere}/postgres", autocommit=True) as connection:
                connection.execute(f"alter database {name} allow_connections false")
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ 'doctor'"
                )

    assert not await examine(show)
    assert [name for name, finding in findings.items() if finding.state == State.FAILED] != ["GPU"]
    assert {"WORK_DIR", "GPU", "pods", "waiting jobs"} <= findings.keys()
    assert findings["waiting jobs"].state in (State.FAILED, State.SKIPPED)
    assert not any("report it as a bug" in finding.hint for finding in findings.values())


async def test_doctor_reports_what_the_database_lost(installation: Installation) -> None:
    """Only the owner can compare; a pod's login says so."""
    app = installation.app
    assert (await _catalog_of(installation)).state == State.SKIPPED
    installation.set(DATABASE_URL=app.url)
    assert (await _catalog_of(installation)).state == State.PASSED
    app.run("create policy more on public.presets for select to anon using (true)")
    assert (await _catalog_of(installation)).state == State.WARNING
    app.run('drop policy "likeness: users can view what is theirs" on storage.objects')
    found = await _catalog_of(installation)
    assert (found.state, found.hint) == (State.FAILED, "worker migrate --repair")
    assert "users can view what is theirs" in found.message


async def _catalog_of(installation: Installation) -> Finding:
    findings: dict[str, Finding] = {}
    report = Report(lambda finding: findings.update({finding.name: finding}))
    settings, _ = Settings.examine()
    async with AsyncExitStack() as stack:
        await check_database(report, settings, stack)
    return findings["catalog"]


async def test_doctor_notices_row_level_security_that_hides_rows_from_pods(installation: Installation) -> None:
    """Rows are hidden without an error: today's pods would find no row of worker.config."""
    installation.app.run("alter table worker.config enable row level security")
    schema = (await installation.findings_of("database"))["schema"]
    assert "row-level security is on for worker.config" in schema.message
    assert "worker migrate --repair" in schema.hint

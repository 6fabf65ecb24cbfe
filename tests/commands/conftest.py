"""A server that requires passwords from pods, an installation on it, and commands as an operator runs them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.app import App
from tests.conftest import TEMPLATE, Databases
from tests.forked import Commands, Ran
from tests.processes import worker_environment
from tests.quick_boto import shared_descriptions  # noqa: F401
from tests.sql.pod import Claims, Pod
from worker.commands.checks.database import check_database
from worker.commands.checks.gpu import GpuCheck
from worker.commands.checks.models import check_models
from worker.commands.checks.pods import check_pods
from worker.commands.checks.report import Finding, Report
from worker.commands.checks.role import check_role
from worker.commands.checks.storage import check_models_store, check_storage
from worker.database.owner import connect
from worker.database.role import apply_login, make_login
from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3
from worker.settings import Settings

ACCESS_RULES = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture(scope="session")
def guarded(servers: Path) -> Iterator[Databases]:
    """A server that trusts the owner, requires a password from all other roles, and logs every statement."""
    with EmbeddedPostgres(servers / "guarded", fast=True) as server:
        (server.folder / "data" / "pg_hba.conf").write_text(ACCESS_RULES)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("alter system set log_statement = 'all'")
            connection.execute("select pg_reload_conf()")
            connection.execute(f"create database {TEMPLATE}")
        migrate.install_supabase_stubs(server.url(TEMPLATE))
        migrate.migrate(server.url(TEMPLATE))
        yield Databases(server)


@dataclass
class Operator:
    """An operator at a shell, with the settings of a correct installation."""

    app: App
    folder: Path
    commands: Commands
    environment: dict[str, str] = field(default_factory=dict)

    def worker(self, *words: str, **changes: str | None) -> Ran:
        """Run `worker …`. None removes a variable."""
        environment = {**self.environment, **changes}
        given = {name: value for name, value in environment.items() if value is not None}
        ran = self.commands.run(words, given, self.folder)  # no .env here
        assert "Traceback" not in ran.stderr
        return ran

    def run(self, command: str, **changes: str | None) -> Ran:
        """Run a command; doctor where the driver fails, so that no process imports torch to look for a GPU."""
        words = command.split()
        return self.worker(*words, **({"PATH": self.path_without_gpu()} if words == ["doctor"] else {}), **changes)

    def path_without_gpu(self) -> str:
        """Return a PATH on which nvidia-smi fails."""
        if not (self.folder / "bin").exists():
            put_nvidia_smi(self.folder, "exit 9")
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def make_login(self, name: str, *options: str) -> str:
        """`worker role NAME --apply`, as the owner; returns the address for the pod."""
        ran = self.worker("role", name, "--apply", *options, DATABASE_URL=self.app.url)
        assert ran.code == 0, ran.stderr
        return address_in(ran.stdout)


def address_in(output: str) -> str:
    (address,) = re.findall(r"^DATABASE_URL=(\S+)$", output, re.MULTILINE)
    return str(address)


def put_nvidia_smi(folder: Path, script: str) -> Path:
    """Write a fake nvidia-smi; returns its folder."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program.parent


@pytest.fixture
def guarded_app(guarded: Databases, s3_server: EmbeddedS3) -> Iterator[App]:
    """An app on a fresh database of the guarded server, and fresh buckets."""
    with guarded.fresh() as url, App.create(url, s3_server) as app:
        yield app


@pytest.fixture
def operator(guarded_app: App, commands: Commands, tiny_models: Path, tmp_path: Path) -> Iterator[Operator]:
    """An operator with the owner's URL. Roles that a test creates are dropped in the end: they belong to the server."""
    with operating(guarded_app, commands, tiny_models, tmp_path) as operator:
        yield operator


@contextmanager
def operating(app: App, commands: Commands, tiny_models: Path, folder: Path) -> Iterator[Operator]:
    before = roles(app)
    yield Operator(app, folder, commands, worker_environment(app, tiny_models))
    for role in roles(app) - before:
        app.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", role)
        app.run(f"drop owned by {role}")
        app.run(f"drop role {role}")


@contextmanager
def installed(
    guarded: Databases, s3_server: EmbeddedS3, commands: Commands, tiny_models: Path, folder: Path
) -> Iterator[Operator]:
    """An operator of an installation of its own."""
    with (
        guarded.fresh() as url,
        App.create(url, s3_server) as app,
        operating(app, commands, tiny_models, folder) as operator,
    ):
        yield operator


def roles(app: App) -> set[str]:
    return {row["rolname"] for row in app.run("select rolname from pg_roles where rolname !~ '^pg_'")}


@pytest.fixture
def pod_url(operator: Operator) -> str:
    """The URL of a pod's login, as `worker role NAME --apply` creates it."""
    return login_of_a_pod(operator, "doctors_pod")


def login_of_a_pod(operator: Operator, name: str) -> str:
    login = make_login(name, operator.app.url, None, rotate=False)
    with connect(operator.app.url) as connection:
        apply_login(connection, login, rotate=False)
    return login.addresses["direct"]


@pytest.fixture
def start_pod(guarded_app: App) -> Iterator[Callable[..., Pod]]:
    """Make pods that compute nothing: start_pod(name=…, routes=…)."""
    pods: list[Pod] = []

    def start(**options: object) -> Pod:
        pods.append(Pod(guarded_app.url, claims, **options))  # type: ignore[arg-type]
        return pods[-1]

    with Claims(guarded_app.url) as claims:
        yield start
        for pod in pods:
            pod.close()


@dataclass
class Installation:
    """An installation that a test breaks, and the parts of the doctor that check it, called as `examine` does."""

    app: App
    operator: Operator
    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def set(self, **variables: str | None) -> None:
        """Set variables; None removes one, and {closed} is replaced by a closed port."""
        for name, value in variables.items():
            if value is None:
                self.monkeypatch.delenv(name, raising=False)
            else:
                self.monkeypatch.setenv(name, value.replace("{closed}", str(closed_port())))

    async def findings_of(self, part: str, deadline_s: float = 20) -> dict[str, Finding]:
        """Run one part of the checks; returns its findings by name."""
        findings: dict[str, Finding] = {}
        settings, _ = Settings.examine()
        before = Report(lambda _: None)
        report = Report(lambda finding: findings.update({finding.name: finding}), deadline_s)
        async with AsyncExitStack() as stack:
            database = await check_database(report if part == "database" else before, settings, stack)
            if part == "role":
                assert database is not None, before.findings
                await check_role(report, database)
            if part in ("storage", "models"):
                store = await check_storage(report if part == "storage" else before, settings, database)
                if store is not None:
                    stack.push_async_callback(store.close)
                models_store = await check_models_store(
                    report if part == "storage" else before, settings, database, store
                )
                if models_store is not None and models_store is not store:
                    stack.push_async_callback(models_store.close)
                if part == "models":
                    gpu = GpuCheck()
                    gpu.usable = True
                    await check_models(report, settings, database, models_store, gpu)
            if part == "pods":
                await check_pods(report, database)
        return findings


@pytest.fixture
def installation(operator: Operator, pod_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installation:
    monkeypatch.chdir(tmp_path)
    installation = Installation(operator.app, operator, monkeypatch, tmp_path)
    installation.set(**{**operator.environment, "DATABASE_URL": pod_url})
    return installation


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

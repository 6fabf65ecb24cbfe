"""A server that requires passwords from pods, an installation on it, and commands as an operator runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.app import App
from tests.conftest import TEMPLATE, Databases
from tests.processes import worker_environment
from tests.sql.pod import Claims, Pod
from worker.database import migrate
from worker.database.owner import connect
from worker.database.role import apply_login, make_login
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3

ACCESS_RULES = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """A server that trusts the owner, requires a password from all other roles, and logs every statement."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("guarded"), fast=True) as server:
        (server.folder / "data" / "pg_hba.conf").write_text(ACCESS_RULES)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("alter system set log_statement = 'all'")
            connection.execute("select pg_reload_conf()")
            connection.execute(f"create database {TEMPLATE}")
        migrate.install_supabase_stubs(server.url(TEMPLATE))
        migrate.migrate(server.url(TEMPLATE))
        yield Databases(server)


@dataclass(frozen=True)
class Ran:
    """The result of a command."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Operator:
    """An operator at a shell, with the settings of a correct installation."""

    app: App
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def worker(self, *words: str, **changes: str | None) -> Ran:
        """Run `worker …`. None removes a variable."""
        environment = {**self.environment, **changes}
        ended = subprocess.run(
            [sys.executable, "-m", "worker", *words],
            env={name: value for name, value in environment.items() if value is not None},
            cwd=self.folder,  # no .env here
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert "Traceback" not in ended.stderr
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def make_login(self, name: str, *options: str) -> str:
        """`worker role NAME --apply`, as the owner; returns the address for the pod."""
        ran = self.worker("role", name, "--apply", *options, DATABASE_URL=self.app.url)
        assert ran.code == 0, ran.stderr
        return address_in(ran.stderr)


def address_in(output: str) -> str:
    (address,) = re.findall(r"^DATABASE_URL=(\S+)$", output, re.MULTILINE)
    return str(address)


@pytest.fixture
def guarded_app(guarded: Databases, s3_server: EmbeddedS3) -> Iterator[App]:
    """An app on a fresh database of the guarded server, and fresh buckets."""
    name = guarded.create()
    with App.create(guarded.server.url(name), s3_server) as app:
        yield app
    guarded.drop(name)


@pytest.fixture
def operator(guarded_app: App, tiny_models: Path, tmp_path: Path) -> Iterator[Operator]:
    """An operator with the owner's URL. Roles that a test creates are dropped in the end: they belong to the server."""
    made = Operator(guarded_app, tmp_path, worker_environment(guarded_app, tiny_models))
    before = roles(guarded_app)
    yield made
    for role in roles(guarded_app) - before:
        guarded_app.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", role)
        guarded_app.run(f"drop owned by {role}")
        guarded_app.run(f"drop role {role}")


def roles(app: App) -> set[str]:
    return {row["rolname"] for row in app.run("select rolname from pg_roles where rolname !~ '^pg_'")}


@pytest.fixture
def pod_url(operator: Operator) -> str:
    """The URL of a pod's login, as `worker role NAME --apply` creates it."""
    login = make_login("doctors_pod", operator.app.url, None, rotate=False)
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

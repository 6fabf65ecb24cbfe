"""Fixtures for all tests: Postgres, S3 over HTTP, tiny models, worker processes. One server per test process."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

GUARD = Path(__file__).parent / "guard"
sys.path.insert(0, str(GUARD))
import sitecustomize  # noqa: E402, F401  the network guard, in this process too

# Several test processes share the cores; spinning torch threads would slow each other down.
os.environ["OMP_NUM_THREADS"] = "1"
# On some CPUs MKL's sums depend on where a matrix is in memory, so that weights that were moved give another last bit.
os.environ["MKL_CBWR"] = "AUTO"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["PYTHONPATH"] = str(GUARD)
for name in ("DATABASE_URL", "S3_ENDPOINT_URL", "SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"):
    os.environ.pop(name, None)

import psycopg  # noqa: E402
from psycopg import sql  # noqa: E402

from tests.app import App  # noqa: E402
from tests.forked import Commands  # noqa: E402
from tests.processes import WorkerProcesses  # noqa: E402
from tests.sql.supabase import VERSIONS, Supabase, Supabases  # noqa: E402
from worker.database.schema import migrate  # noqa: E402
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3  # noqa: E402

TEMPLATE = "likeness_template"
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 4 << 30


# Collections would go through all that the test files import, which is an eighth of what importing takes.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # so that extensions find nothing left at the end of the process, and report nothing


@dataclass(frozen=True)
class Databases:
    """A server with a migrated template database."""

    server: EmbeddedPostgres

    def create(self, template: str = TEMPLATE) -> str:
        """Create a fresh database; returns its name."""
        name = f"test_{uuid4().hex[:12]}"
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(
                # Copied as files: through the write-ahead log it takes a half longer.
                sql.SQL("create database {} template {} strategy file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        if template == TEMPLATE:
            with psycopg.connect(self.server.url(name), autocommit=True) as connection:
                # As if it had been migrated here: a copy of a template must not start anything.
                connection.execute(
                    "update worker.installation set id = gen_random_uuid(), home = worker.current_home()"
                )
        return name

    def drop(self, name: str) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Yield the URL of a fresh migrated database, which is dropped in the end."""
        name = self.create()
        try:
            yield self.server.url(name)
        finally:
            self.drop(name)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the data of servers, in memory where this machine has enough of it.

    Every test has a database of its own, of 300 files: on a disk their creation takes longer than most tests.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY:
        with TemporaryDirectory(prefix="likeness-tests-", dir=MEMORY) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def postgres(servers: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(servers / "postgres", fast=True) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Databases:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    migrate.install_supabase_stubs(postgres.url(TEMPLATE))
    migrate.migrate(postgres.url(TEMPLATE))
    return Databases(postgres)


@pytest.fixture(scope="session")
def supabase_servers(servers: Path) -> Iterator[Supabases]:
    with Supabases(servers) as made:
        yield made


@pytest.fixture(scope="module")
def supabases(supabase_servers: Supabases) -> Iterator[Supabases]:
    """Servers on which this module creates projects."""
    yield supabase_servers
    supabase_servers.drop_projects()


@pytest.fixture(scope="module")
def supabase(supabases: Supabases) -> Supabase:
    """Projects on the newest version."""
    return supabases.of("18")


@pytest.fixture(scope="module", params=list(VERSIONS), ids=lambda version: f"PostgreSQL {version}")
def any_supabase(request: pytest.FixtureRequest, supabases: Supabases) -> Supabase:
    """Projects on each version in turn."""
    return supabases.of(request.param)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """The URL of a migrated database for this test alone, as its owner."""
    with databases.fresh() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[EmbeddedS3]:
    with EmbeddedS3() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base of each family and both upscalers, built once for all test processes."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "models"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".done").exists():
            from tests.tiny_models import build_tiny_models
            from worker.ml.families.tiny import klein as klein_tiny
            from worker.ml.families.tiny import qwen_image as qwen_image_tiny
            from worker.ml.families.tiny import sd15 as sd15_tiny
            from worker.ml.families.tiny import sdxl as sdxl_tiny
            from worker.ml.families.tiny import z_image as z_image_tiny

            build_tiny_models(folder)
            klein_tiny.build_tiny(folder / "tiny-klein")
            klein_tiny.build_tiny(folder / "tiny-klein-distilled", distilled=True)
            qwen_image_tiny.build_tiny(folder / "tiny-qwen-image")
            sd15_tiny.build_tiny(folder / "tiny-sd15")
            sdxl_tiny.build_tiny(folder / "tiny-sdxl")
            z_image_tiny.build_tiny(folder / "tiny-z-image")
            (folder / ".done").touch()
    return folder


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    with Commands() as made:
        yield made


@pytest.fixture
def app(database_url: str, s3_server: EmbeddedS3) -> Iterator[App]:
    """An app on a fresh database and fresh buckets, with the tiny base as its default."""
    with App.create(database_url, s3_server) as made:
        yield made


@pytest.fixture
def start_worker(app: App, tiny_models: Path, tmp_path: Path) -> Iterator[Callable[..., object]]:
    """Start `worker run` processes; they and their GPU processes are stopped when the test ends."""
    with WorkerProcesses(app, tiny_models, tmp_path) as processes:
        yield processes.start

"""Worker processes shared by the tests of a file, because starting one takes longer than most jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.app import App
from tests.conftest import Databases
from tests.kinds.packages import copy_echo, migrate, python_path
from tests.processes import WorkerProcesses
from tests.worker.fleet import MAKE_POD_ROLE, Fleet, as_pod
from tests.worker.studio import Studio, open_studio
from worker.demo.servers import EmbeddedS3

MakeFleet = Callable[..., Fleet]


@pytest.fixture(scope="module")
def make_fleet(
    databases: Databases, s3_server: EmbeddedS3, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeFleet]:
    """Create fleets without workers, each with an app on its own database; all are removed in the end."""
    with ExitStack() as stack:

        def make(database_url: str | None = None, models_dir: Path | None = None, **environment: str) -> Fleet:
            if database_url is None:
                database_url = stack.enter_context(databases.fresh())
            app = stack.enter_context(App.create(database_url, s3_server))
            app.run(MAKE_POD_ROLE)
            environment.setdefault("DATABASE_URL", as_pod(app.url))
            folder = tmp_path_factory.mktemp("fleet")
            processes = stack.enter_context(WorkerProcesses(app, models_dir or tiny_models, folder))
            return Fleet(app, processes, environment)

        yield make


@pytest.fixture(scope="session")
def studio(
    databases: Databases, s3_server: EmbeddedS3, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Studio]:
    with open_studio(databases, s3_server, tiny_models, tmp_path_factory.mktemp("studio")) as studio:
        yield studio


ONLY_ECHO = {"WORKER_KINDS": "echo"}


@pytest.fixture(scope="module")
def make_echo_fleet(make_fleet: MakeFleet, tmp_path_factory: pytest.TempPathFactory) -> MakeFleet:
    """Create fleets whose pods know the kind of `tests/kinds/echo`, and by default only that one.

    Their GPU processes do not import diffusers, which takes ten times as long as everything else at their start.
    """
    package = copy_echo(tmp_path_factory.mktemp("package"))

    def make(database_url: str | None = None, **environment: str) -> Fleet:
        fleet = make_fleet(database_url, **{"PYTHONPATH": python_path(package), **ONLY_ECHO, **environment})
        fleet.app.tables["echo"] = "public.echo_jobs"
        ran = migrate(fleet.app.url, packages=(package,))
        assert ran.returncode == 0, ran.stderr
        return fleet

    return make


LONG_ECHO = {"times": 1000, "pause_ms": 20}
"""Long enough to be stopped in the middle; a `pause_ms` takes no time of the CPU."""


def damage(base: Path) -> None:
    """Damage a FLUX base: it looks complete but cannot be loaded."""
    (weights,) = (base / "transformer").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a failed test's workers."""
    report = yield
    fleets = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Fleet)]
    if report.failed:
        for worker in [worker for fleet in fleets for worker in fleet.workers]:
            report.sections.append((f"log of worker {worker.pid}", worker.log_path.read_text()[-20_000:]))
    return report

"""Worker processes shared by the tests of a file, because starting one takes longer than most jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from tests.app import App
from tests.conftest import Databases
from tests.kinds.packages import copy_echo, migrate, python_path
from tests.processes import WorkerProcess, WorkerProcesses
from tests.waiting import wait_until
from worker.demo.servers import EmbeddedS3


@dataclass
class Fleet:
    """The workers of one app, with requests and queries for the tests."""

    app: App
    processes: WorkerProcesses
    environment: dict[str, str]
    """Added to the environment of every worker."""
    workers: list[WorkerProcess] = field(default_factory=list)

    def start(self, *, ready: bool = True, **environment: str) -> WorkerProcess:
        worker = self.processes.start(ready=ready, **{**self.environment, **environment})
        self.workers.append(worker)
        return worker

    def ready(self, count: int = 1) -> list[WorkerProcess]:
        """Return this many living workers, all ready. Missing ones are started, all at once."""
        for _ in range(count - len(self.living())):
            self.start(ready=False)
        for worker in self.living():
            worker.wait_ready()
        return self.living()[:count]

    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.process.poll() is None]

    # -- jobs

    def person(self) -> UUID:
        """Add a subject with consent and photos."""
        subject = self.app.add_subject()
        self.app.add_photos(subject)
        return subject

    def train(self, **columns: object) -> UUID:
        """Request a small training, of a new person unless `subject_id` names one."""
        columns = {"subject_id": columns.get("subject_id") or self.person(), "steps": 3, "resolution": 64, **columns}
        return self.app.request("training", **columns)

    def draw(self, **columns: object) -> UUID:
        """Request a small picture without a subject."""
        defaults: dict[str, object] = {"owner_id": self.app.owner, "model_ids": [], "prompt": "a garden", "steps": 1}
        return self.app.request("generation", **{**defaults, **columns})

    def echo(self, **columns: object) -> UUID:
        """Request an echo, without a subject unless `subject_id` names one; only for fleets of `make_echo_fleet`."""
        return self.app.request("echo", **{"owner_id": self.app.owner, "words": "good morning", **columns})

    def copy_lora(self, subject: UUID) -> UUID:
        """Give a person a LoRA as a training does when it is published; returns the job that copies it."""
        model = self.app.add_lora(subject)
        key = f"{subject}/{model}/lora.safetensors"
        self.app.s3.put_object(Bucket=self.app.models, Key=key, Body=b"weights")
        self.app.run("update public.subjects_models set path = %s where id = %s", key, model)
        return self.app.request(
            "publish_lora", owner_id=self.app.owner, subject_id=subject, payload=Jsonb({"model_id": str(model)})
        )

    def completed(self, kind: str, job_id: UUID, timeout_s: float = 90) -> dict[str, Any]:
        job = self.app.wait_for(kind, job_id, timeout_s=timeout_s)
        assert job["status"] == "completed", (job["error_code"], job["error"])
        return job

    def wait_for_phase(
        self, kind: str, job_id: UUID, phase: str, *, progress: float = 0, attempt: int = 1
    ) -> dict[str, Any]:
        """Return the running job once this attempt is in a phase and has made this progress."""

        def reached() -> bool:
            job = self.app.job(kind, job_id)
            assert job["finished_at"] is None, (job["status"], job["error_code"], job["error"])
            if (job["status"], job["phase"]) != ("running", phase):
                return False
            return job["attempt"] == attempt and job["progress"] >= progress

        wait_until(reached, f"{kind} {job_id} to be {phase}", 90)
        return self.app.job(kind, job_id)

    def wait_for_checkpoint(self, job_id: UUID) -> int:
        """Return the step of the newest uploaded checkpoint, once there is one."""
        newest_step = """select max((detail ->> 'step')::int) from worker.job_events
                         where job_id = %s and event = 'checkpoint'"""

        def step() -> int | None:
            newest: int | None = self.app.one(newest_step, job_id)
            return newest

        wait_until(step, f"a checkpoint of {job_id}", 60)
        return step() or 0

    def started(self, job_id: UUID) -> list[dict[str, Any]]:
        """Return attempt, pod and resumed step of each start of a job."""
        return self.app.run(
            """select attempt, detail ->> 'pod_id' as pod_id, (detail ->> 'resumed_step')::int as resumed_step
               from worker.job_events where job_id = %s and event = 'started' order by id""",
            job_id,
        )

    def wait_for_outcomes(self, job_id: UUID, count: int) -> list[str]:
        """Return how the attempts of a job ended according to their workers' logs, once this many have."""

        def outcomes() -> list[str]:
            lines = [line for worker in self.workers for line in worker.events("job.finished")]
            return [line["outcome"] for line in lines if line["job_id"] == str(job_id)]

        wait_until(lambda: len(outcomes()) >= count, f"{count} attempts of {job_id} to be logged")
        return outcomes()

    # -- storage

    def stored(self, job_id: UUID) -> set[str]:
        """Return the keys in storage that name a job."""
        keys = [key for bucket in self.app.buckets for key in self.app.keys(bucket)]
        return {key for key in keys if str(job_id) in key}

    def published(self, job_id: UUID) -> set[str]:
        """Return the keys of a job that are published according to the database."""
        rows = self.app.run(
            "select key from worker.staged_objects where job_id = %s and state = 'published'",
            job_id,
        )
        return {row["key"] for row in rows}

    def wait_swept(self, job_id: UUID) -> None:
        """Return once storage has exactly the published objects of a job."""
        wait_until(
            lambda: self.stored(job_id) == self.published(job_id),
            f"the other objects of {job_id} to be deleted",
            30,
        )


MakeFleet = Callable[..., Fleet]

POD = "test_pod"
MAKE_POD_ROLE = f"""
do $$ begin
  if not exists (select from pg_roles where rolname = '{POD}') then
    create role {POD} login in role likeness_worker;
  end if;
end $$"""


def as_pod(url: str) -> str:
    """Return the URL of the same database with only a pod's rights."""
    return url.replace("postgres@", f"{POD}@")


@pytest.fixture(scope="module")
def make_fleet(
    databases: Databases, s3_server: EmbeddedS3, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeFleet]:
    """Create fleets without workers, each with an app on its own database; all are removed in the end."""
    with ExitStack() as stack:

        def make(database_url: str | None = None, models_dir: Path | None = None, **environment: str) -> Fleet:
            if database_url is None:
                name = databases.create()
                stack.callback(databases.drop, name)
                database_url = databases.server.url(name)
            app = stack.enter_context(App.create(database_url, s3_server))
            app.run(MAKE_POD_ROLE)
            environment.setdefault("DATABASE_URL", as_pod(app.url))
            folder = tmp_path_factory.mktemp("fleet")
            processes = stack.enter_context(WorkerProcesses(app, models_dir or tiny_models, folder))
            return Fleet(app, processes, environment)

        yield make


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

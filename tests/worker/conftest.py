"""Worker processes that several tests of a file share: starting one takes longer than most jobs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.app import App
from tests.conftest import Databases
from tests.processes import WorkerProcess, WorkerProcesses
from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from worker.demo.servers import EmbeddedS3


@dataclass
class Fleet:
    """The workers of one app, and what the tests ask about them."""

    app: App
    processes: WorkerProcesses
    environment: dict[str, str]
    """Added to every worker's."""
    workers: list[WorkerProcess] = field(default_factory=list)

    def start(self, *, ready: bool = True, **environment: str) -> WorkerProcess:
        worker = self.processes.start(ready=ready, **{**self.environment, **environment})
        self.workers.append(worker)
        return worker

    def ready(self, count: int = 1) -> list[WorkerProcess]:
        """That many living workers, all ready; those that lack are started, all at once."""
        for _ in range(count - len(self.living())):
            self.start(ready=False)
        for worker in self.living():
            worker.wait_ready()
        return self.living()[:count]

    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.process.poll() is None]

    # -- jobs

    def person(self) -> UUID:
        """A consenting subject with photographs."""
        subject = self.app.add_subject()
        self.app.add_photos(subject)
        return subject

    def train(self, **columns: object) -> UUID:
        """A small training, of a new person unless `subject_id` names one."""
        columns = {"subject_id": columns.get("subject_id") or self.person(), "steps": 3, "resolution": 64, **columns}
        return self.app.request("training", **columns)

    def draw(self, **columns: object) -> UUID:
        """A small picture that shows nobody."""
        defaults: dict[str, object] = {"owner_id": self.app.owner, "model_ids": [], "prompt": "a garden", "steps": 1}
        return self.app.request("generation", **{**defaults, **columns})

    def completed(self, kind: str, job_id: UUID, timeout_s: float = 90) -> dict[str, Any]:
        job = self.app.wait_for(kind, job_id, timeout_s=timeout_s)
        assert job["status"] == "completed", (job["error_code"], job["error"])
        return job

    def wait_for_phase(
        self, kind: str, job_id: UUID, phase: str, *, progress: float = 0, attempt: int = 1
    ) -> dict[str, Any]:
        """The running job once this attempt is in a phase, that far."""

        def reached() -> bool:
            job = self.app.job(kind, job_id)
            assert job["finished_at"] is None, (job["status"], job["error_code"], job["error"])
            if (job["status"], job["phase"]) != ("running", phase):
                return False
            return job["attempt"] == attempt and job["progress"] >= progress

        wait_until(reached, f"{kind} {job_id} to be {phase}", 90)
        return self.app.job(kind, job_id)

    def wait_for_checkpoint(self, job_id: UUID) -> int:
        """The step of the newest uploaded checkpoint, once there is one."""
        newest_step = """select max((detail ->> 'step')::int) from worker.job_events
                         where job_id = %s and event = 'checkpoint'"""

        def step() -> int | None:
            newest: int | None = self.app.one(newest_step, job_id)
            return newest

        wait_until(step, f"a checkpoint of {job_id}", 60)
        return step() or 0

    def started(self, job_id: UUID) -> list[dict[str, Any]]:
        """What is noted about each start of a job: its attempt, its pod and what it resumed from."""
        return self.app.run(
            """select attempt, detail ->> 'pod_id' as pod_id, (detail ->> 'resumed_step')::int as resumed_step
               from worker.job_events where job_id = %s and event = 'started' order by id""",
            job_id,
        )

    def wait_for_outcomes(self, job_id: UUID, count: int) -> list[str]:
        """How the attempts of a job ended, as the workers that ran them saw it, once that many have."""

        def outcomes() -> list[str]:
            lines = [line for worker in self.workers for line in worker.events("job.finished")]
            return [line["outcome"] for line in lines if line["job_id"] == str(job_id)]

        wait_until(lambda: len(outcomes()) >= count, f"{count} attempts of {job_id} to be logged")
        return outcomes()

    # -- storage

    def stored(self, job_id: UUID) -> set[str]:
        """The keys in storage that name a job."""
        keys = self.app.keys(self.app.uploads) + self.app.keys(self.app.models)
        return {key for key in keys if str(job_id) in key}

    def published(self, job_id: UUID) -> set[str]:
        """The keys that the database holds for published."""
        rows = self.app.run(
            "select key from worker.staged_objects where job_id = %s and state = 'published'",
            job_id,
        )
        return {row["key"] for row in rows}

    def wait_swept(self, job_id: UUID) -> None:
        """Until storage holds what is published of a job, and nothing else of it."""
        wait_until(
            lambda: self.stored(job_id) == self.published(job_id),
            f"the garbage of {job_id} to be gone",
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
    """The same database with a pod's rights and no others."""
    return url.replace("postgres@", f"{POD}@")


@pytest.fixture(scope="module")
def make_fleet(
    databases: Databases, s3_server: EmbeddedS3, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeFleet]:
    """Makes an app on a database of its own, and a fleet without workers yet; at the end all are gone."""
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


def copy_with_a_damaged_base(tiny_models: Path, folder: Path) -> Path:
    """The tiny models of one pod, in `folder`: the FLUX base looks whole and cannot be loaded."""
    shutil.copytree(tiny_models, folder)
    (weights,) = (folder / TINY_BASE / "transformer").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the logs of its workers."""
    report = yield
    fleets = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Fleet)]
    if report.failed:
        for worker in [worker for fleet in fleets for worker in fleet.workers]:
            report.sections.append((f"log of worker {worker.pid}", worker.log_path.read_text()[-20_000:]))
    return report

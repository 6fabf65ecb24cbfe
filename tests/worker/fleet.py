"""The workers of an app, with requests and queries for the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from tests.app import App
from tests.processes import WorkerProcess, WorkerProcesses
from tests.waiting import wait_until

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

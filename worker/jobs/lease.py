"""The lease that every write of an attempt presents."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb
from pydantic_core import to_json

from worker import errors
from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.errors import Interruption, JobInterrupted
from worker.jobs.started_job import StartedJob

PHASE_EVERY_S = 1.0
PHASE_WITHIN_S = 2.0

_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Lease:
    """(kind, job id, attempt): the right to report, publish and end one attempt.

    Every method is one SQL function that checks the fence. Where it answers that the attempt must stop, `interrupt`
    is called and `interruption` is set; the job runner watches it.
    """

    def __init__(self, database: Database, job: StartedJob) -> None:
        self._database = database
        self.job = job
        self.kind = job.kind
        self.id = job.id
        self.attempt = job.attempt
        self.gpu_seconds = 0.0
        self.on_gpu = False
        """A task of this attempt runs on the GPU."""
        self.computed = False
        """The GPU's part is done: what is left is encoding and publishing."""
        self.release_state: str | None = None
        """The answer of the database when a shutdown released the job."""
        self.interrupted = asyncio.Event()
        self.interruption: Interruption | None = None
        self._progress: dict[str, Any] = {"progress": 0.0, "metrics": None}
        self._phase: str | None = None
        """The last one that the database was told."""
        self._phase_sent_at = 0.0

    @property
    def key(self) -> str:
        """Return kind:id, as in notifications."""
        return f"{self.kind}:{self.id}"

    def heartbeat_payload(self) -> dict[str, Any]:
        """Return the lease as a heartbeat names it, with its progress."""
        return {"kind": self.kind, "id": str(self.id), "attempt": self.attempt, "report": self._progress}

    def interrupt(self, reason: Interruption) -> None:
        """Tell the attempt to stop. The first reason counts, but a lost lease outranks all: nothing may be written."""
        was_released = self.interruption is Interruption.SHUTDOWN  # then the lease must be lost
        if self.interruption is None or (reason is Interruption.LEASE_LOST and not was_released):
            self.interruption = reason
        self.interrupted.set()

    def check(self) -> None:
        """Raise JobInterrupted if the attempt was told to stop."""
        if self.interruption is not None:
            raise JobInterrupted(self.interruption)

    async def begin_phase(self, name: str) -> None:
        """Tell the database at once that a phase begins; the progress stays as it is."""
        self._phase_sent_at = time.monotonic()
        with suppress_transient_errors("job.report_skipped", TimeoutError):
            state = await asyncio.wait_for(
                self._database.call_once(
                    "report_job", self.kind, self.id, self.attempt, self._progress["progress"], name, None
                ),
                PHASE_WITHIN_S,
            )
            self._phase = name
            self._apply_lease_state(state)
            return
        # Not repeated: `report` does, and a heartbeat's answer tells whether to stop.
        self._phase_sent_at = time.monotonic()

    async def report(self, progress: float, phase: str, metrics: dict[str, Any]) -> None:
        """Note the progress of the attempt (0 to 1) for the next heartbeat. A new phase begins at once.

        Raises ValueError or TypeError for metrics that jsonb cannot hold: here the job fails, in the heartbeat the pod.
        """
        self._progress = {"progress": round(min(1.0, max(0.0, progress)), 6), "metrics": _as_jsonb_holds(metrics)}
        if phase != self._phase and time.monotonic() - self._phase_sent_at >= PHASE_EVERY_S:
            await self.begin_phase(phase)

    async def stage(self, objects: list[tuple[str, str]]) -> None:
        """Register (bucket, key) pairs before they are uploaded. Raises JobInterrupted when the attempt must stop."""
        listed = [{"bucket": bucket, "key": key} for bucket, key in objects]
        self._apply_lease_state(
            await self._database.call_until_answered("stage_objects", self.kind, self.id, self.attempt, Jsonb(listed))
        )
        self.check()

    async def save_checkpoint(self, step: int, bucket: str, key: str) -> None:
        """Make an uploaded checkpoint the one that the next attempt resumes from."""
        self._apply_lease_state(
            await self._database.call("save_checkpoint", self.kind, self.id, self.attempt, step, bucket, key)
        )

    async def find_result(self, fingerprint: str) -> dict[str, Any] | None:
        """Record the request's fingerprint; return `job_id`, `result` and `objects` of an identical one, if any."""
        found: dict[str, Any] | None = await self._database.call(
            "find_result", self.kind, self.id, self.attempt, fingerprint
        )
        return found

    async def complete(self, result: dict[str, Any]) -> str:
        """Publish the result. Return ok, lost, cancelled, consent_denied or invalid."""
        return str(
            await self._database.call_until_answered(
                "complete_job", self.kind, self.id, self.attempt, Jsonb(result), self.gpu_seconds
            )
        )

    async def fail(self, error: errors.WorkerError, retry_after: timedelta | None = None) -> str:
        """Report that the attempt failed. Return queued (retried later), failed, cancelled, consent_denied or lost."""
        return str(
            await self._database.call_until_answered(
                "fail_job",
                self.kind,
                self.id,
                self.attempt,
                error.code,
                error.message.replace("\0", " ").encode(errors="replace").decode(),  # as Postgres accepts it
                retry_after,
                self.gpu_seconds,
            )
        )

    async def release(self, reason: str, code: str | None = None) -> str:
        """Requeue the job, which does not count as a failure. Return queued, cancelled, consent_denied or lost."""
        return str(
            await self._database.call_until_answered(
                "release_job", self.kind, self.id, self.attempt, reason, code, self.gpu_seconds
            )
        )

    def _apply_lease_state(self, state: str) -> None:
        if state != "ok":
            self.interrupt(Interruption(state))


def _as_jsonb_holds(metrics: dict[str, Any]) -> Any:
    text = to_json(metrics, inf_nan_mode="null")
    if _ESCAPED_NUL.search(text):
        raise ValueError("metrics with a NUL character cannot be stored")
    return json.loads(text)

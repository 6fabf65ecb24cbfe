"""Jobs as a handler sees them, and the lease that every later write of an attempt presents."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from worker import errors
from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.errors import Interruption, JobInterrupted

REPORT_EVERY_S = 1.0
REPORT_WITHIN_S = 2.0


class _Row(BaseModel):
    """Parsed once, at the boundary. Columns a later schema adds are ignored, so that this release survives it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Base(_Row):
    """A row of `worker.base_models`."""

    slug: str
    family: str
    licence: str
    defaults: dict[str, Any] = {}


class Preset(_Row):
    """A look to reuse. `{prompt}` stands for the request's prompt, `{trigger}` for the trigger word."""

    prompt: str = ""
    negative_prompt: str | None = None


class Photo(_Row):
    """A photograph in the uploads bucket."""

    path: str
    caption: str | None = None


class TrainedModel(_Row):
    """A LoRA in the models bucket, with the strength this job wants."""

    id: UUID
    subject_id: UUID | None
    version: int
    path: str
    sha256: str
    rank: int
    trigger_word: str | None
    scale: float


class Checkpoint(_Row):
    """Where an earlier attempt of this job had got to."""

    step: int
    bucket: str
    key: str


class Subject(_Row):
    """The person or product a job is about."""

    id: UUID
    trigger_word: str | None


class TrainingRequest(_Row):
    """The request columns of `training_jobs`."""

    steps: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    resolution: int | None = None
    batch_size: int | None = None  # these two have no column: only a base's defaults say them
    preservation: float | None = None
    seed: int | None = None
    trigger_word: str | None = None
    class_name: str | None = None


class GenerationRequest(_Row):
    """The request columns of `generation_jobs`."""

    prompt: str = ""
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    num_images: int = 1
    upscale: Literal[2, 4] = 4
    quality: int = 92
    output_format: Literal["png", "jpeg", "webp"] = "png"


def names_trigger(text: str, trigger_word: str) -> bool:
    """Whether a prompt or caption holds the trigger word, as a word."""
    return re.search(rf"\b{re.escape(trigger_word)}\b", text) is not None


class StartedJob(_Row):
    """What `worker.start_job` answers: everything a handler needs to know about one attempt."""

    kind: str
    id: UUID
    attempt: int
    purpose: str | None
    subjects: list[UUID]
    subject: Subject | None
    base: Base | None
    preset: Preset | None
    photos: list[Photo]
    models: list[TrainedModel]
    checkpoint: Checkpoint | None
    prefix: str
    row: dict[str, Any] = Field(alias="job")

    @property
    def training(self) -> TrainingRequest:
        """How to train, filled up from `training` in the base's defaults."""
        defaults = self.base.defaults.get("training", {}) if self.base else {}
        return TrainingRequest.model_validate({**defaults, **self._asked})

    @property
    def generation(self) -> GenerationRequest:
        """What to draw, filled up from the base's defaults."""
        return GenerationRequest.model_validate({**(self.base.defaults if self.base else {}), **self._asked})

    @property
    def _asked(self) -> dict[str, Any]:
        return {name: value for name, value in self.row.items() if value is not None}

    @property
    def required_base(self) -> Base:
        """The base; raises InvalidInput for a job without one."""
        if self.base is None:
            raise errors.InvalidInput(f"job {self.id} names no base model")
        return self.base


class Lease:
    """(kind, job id, attempt): the right to report, publish and end one attempt.

    Every method is one SQL function that checks the fence. Where it answers that the attempt must stop, `interrupt`
    is called and `interruption` is set; whoever runs the attempt watches it.
    """

    def __init__(self, database: Database, job: StartedJob) -> None:
        self._database = database
        self.job = job
        self.kind = job.kind
        self.id = job.id
        self.attempt = job.attempt
        self.gpu_seconds = 0.0
        self.computed = False
        """The GPU's part is done: what is left is encoding and publishing."""
        self.given_back: str | None = None
        """What the database answered when a shutdown gave the job back."""
        self.interrupted = asyncio.Event()
        self.interruption: Interruption | None = None
        self._reported_at, self._progress = 0.0, 0.0

    @property
    def key(self) -> str:
        """kind:id, as in notifications."""
        return f"{self.kind}:{self.id}"

    def heartbeat_payload(self) -> dict[str, Any]:
        """As a heartbeat names it."""
        return {"kind": self.kind, "id": str(self.id), "attempt": self.attempt}

    def interrupt(self, reason: Interruption) -> None:
        """Tell the attempt to stop. The first reason counts, but a lost lease outranks all: nothing may be written."""
        given_back = self.interruption is Interruption.SHUTDOWN  # then "lost" is what it has to be
        if self.interruption is None or (reason is Interruption.LEASE_LOST and not given_back):
            self.interruption = reason
        self.interrupted.set()

    def check(self) -> None:
        """Raises JobInterrupted when the attempt was told to stop."""
        if self.interruption is not None:
            raise JobInterrupted(self.interruption)

    async def begin_phase(self, name: str) -> None:
        """Say at once that a phase begins; the progress stays as it is."""
        await self._report(self._progress, name, None)

    async def report(self, progress: float, phase: str, metrics: dict[str, Any]) -> None:
        """Say how far the attempt is (0…1), at most once a second."""
        self._progress = progress
        if time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            await self._report(progress, phase, metrics)

    async def _report(self, progress: float, phase: str, metrics: dict[str, Any] | None) -> None:
        self._reported_at = time.monotonic()
        with suppress_transient_errors("job.report_skipped", TimeoutError):
            state = await asyncio.wait_for(
                self._database.call_once(
                    "report_job", self.kind, self.id, self.attempt, progress, phase, metrics and Jsonb(metrics)
                ),
                REPORT_WITHIN_S,
            )
            self._apply_lease_state(state)
            return
        # Left out: the next report says more, and the heartbeat says what must be known.
        self._reported_at = time.monotonic()

    async def stage(self, objects: list[tuple[str, str]]) -> None:
        """Register (bucket, key) pairs before they are uploaded. Raises JobInterrupted when the attempt must stop."""
        listed = [{"bucket": bucket, "key": key} for bucket, key in objects]
        self._apply_lease_state(
            await self._database.call_until_answered("stage_objects", self.kind, self.id, self.attempt, Jsonb(listed))
        )
        self.check()

    async def save_checkpoint(self, step: int, bucket: str, key: str) -> None:
        """An uploaded checkpoint becomes the one that the next attempt resumes from."""
        self._apply_lease_state(
            await self._database.call("save_checkpoint", self.kind, self.id, self.attempt, step, bucket, key)
        )

    async def complete(self, result: dict[str, Any]) -> str:
        """Publish: ok, lost, cancelled, consent_denied or invalid."""
        return str(
            await self._database.call_until_answered(
                "complete_job", self.kind, self.id, self.attempt, Jsonb(result), self.gpu_seconds
            )
        )

    async def fail(self, error: errors.WorkerError, retry_after: timedelta | None = None) -> str:
        """End the attempt badly: queued (again later), failed, cancelled, consent_denied or lost."""
        return str(
            await self._database.call_until_answered(
                "fail_job",
                self.kind,
                self.id,
                self.attempt,
                error.code,
                error.message,
                retry_after,
                self.gpu_seconds,
            )
        )

    async def release(self, reason: str, code: str | None = None) -> str:
        """Give the job back, uncharged: queued, cancelled, consent_denied or lost."""
        return str(
            await self._database.call_until_answered(
                "release_job", self.kind, self.id, self.attempt, reason, code, self.gpu_seconds
            )
        )

    def _apply_lease_state(self, state: str) -> None:
        if state != "ok":
            self.interrupt(Interruption(state))

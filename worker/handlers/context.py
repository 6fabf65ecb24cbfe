"""The parts of the worker that a handler uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stamina

from worker.database.pool import Database
from worker.errors import InvalidInput, StorageError
from worker.gpu.messages import Done, Event, Phase, Progress, Task
from worker.gpu.process import GpuChild
from worker.gpu.tasks.generation import UpscalerBackend
from worker.guard.fetch import Fetcher, Limits
from worker.guard.picture_types import why_not_a_picture
from worker.jobs.lease import Lease
from worker.jobs.started_job import StartedJob
from worker.models import JobModels
from worker.storage.lora_cache import LoraCache
from worker.storage.object_store import ObjectInfo, ObjectStore
from worker.storage.prefetched_files import PrefetchedFiles, person_of


@dataclass
class Traffic:
    """Bytes moved for one attempt, for its log line."""

    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class JobContext:
    """The parts of the worker for one attempt."""

    database: Database
    store: ObjectStore
    models: JobModels
    gpu: GpuChild
    loras: LoraCache
    bucket_uploads: str
    bucket_models: str
    bucket_meshes: str
    fetcher: Fetcher
    """For URLs in requests; nothing else asks a server that a user names."""
    upscaler_backend: UpscalerBackend
    checkpoint_every_s: float
    upload_deadline_s: float
    workdir: Path
    prefetched: PrefetchedFiles
    free_slot: Callable[[], None]
    """The GPU is free: the slot may be claimed for again while this attempt encodes and publishes."""
    traffic: Traffic = field(default_factory=Traffic)

    async def compute(self, task: Task, lease: Lease) -> AsyncGenerator[Event | Done, None]:
        """Run a task on the GPU, report its phases and progress, and count its seconds; yields its events, Done last.

        Consume it inside `aclosing`. Raises the WorkerError of a task that failed.
        """
        started = time.monotonic()
        before = lease.gpu_seconds
        lease.on_gpu = True
        try:
            async with aclosing(self.gpu.run(task)) as events:
                async for event in events:
                    lease.gpu_seconds = before + time.monotonic() - started
                    if isinstance(event, Phase):
                        await lease.begin_phase(event.name)
                    elif isinstance(event, Progress):
                        metrics = {**event.metrics, "seconds": round(lease.gpu_seconds, 1)}
                        await lease.report(event.fraction, event.phase, metrics)
                    yield event
        finally:
            lease.on_gpu = False
            lease.gpu_seconds = before + time.monotonic() - started

    async def compute_result(self, task: Task, lease: Lease) -> dict[str, Any]:
        """Run a task as `compute` does, and return only its result."""
        result: dict[str, Any] = {}
        async with aclosing(self.compute(task, lease)) as events:
            async for event in events:
                if isinstance(event, Done):
                    result = event.result
        return result

    def mark_computed(self, lease: Lease) -> None:
        """Record that the GPU's part is done: a shutdown lets the attempt publish, and another job may begin."""
        lease.computed = True
        self.free_slot()

    async def download(self, bucket: str, key: str, path: Path) -> Path:
        """Download one object. Raises InputMissing if it does not exist."""
        await self.store.download(bucket, key, path)
        await self._count(path)
        return path

    async def download_picture(self, url: str, path: Path, limits: Limits) -> Path:
        """Download the picture that a URL of a user names; see `Fetcher.fetch` for what is raised."""
        await self.fetcher.fetch(url, path, limits, why_not_a_picture, self._check_redirect)
        await self._count(path)
        return path

    async def _check_redirect(self, url: str) -> None:
        """Raise InvalidInput for a URL of a person's picture, as the INSERT does for the first URL."""
        error = await self.database.call("redirect_error", url)
        if error is not None:
            raise InvalidInput(f"it is redirected to a URL that {error}")

    async def _count(self, path: Path) -> None:
        size = (await asyncio.to_thread(path.stat)).st_size  # before the sum is read: several may be downloaded at once
        self.traffic.bytes_in += size

    async def download_of(
        self, job: StartedJob, bucket: str, key: str, path: Path, found: ObjectInfo | None = None
    ) -> Path:
        """Take one object of a person from what was prefetched, else download it as `download` does.

        In the uploads bucket the key tells whose it is; elsewhere it is of the job's subject.
        """
        subject_id = job.subject.id if job.subject else None
        if bucket == self.bucket_uploads:
            subject_id = person_of(key)
        if await self.prefetched.take(subject_id, job.purpose, bucket, key, path, found):
            return path
        return await self.download(bucket, key, path)

    async def upload(self, bucket: str, key: str, path: Path, content_type: str) -> None:
        """Upload one object that was staged before. After a StorageError it is retried until the deadline.

        Computing it again would cost more than waiting.
        """
        deadline = time.monotonic() + self.upload_deadline_s
        async for attempt in stamina.retry_context(
            on=StorageError, attempts=None, timeout=self.upload_deadline_s, wait_initial=1, wait_max=20
        ):
            with attempt:
                await self.store.upload(bucket, key, path, content_type, max(1.0, deadline - time.monotonic()))
        size = (await asyncio.to_thread(path.stat)).st_size
        self.traffic.bytes_out += size


Handler = Callable[[Lease, JobContext], Coroutine[Any, Any, dict[str, Any]]]
"""Runs a started attempt and returns the result that `complete_job` publishes; it must be safe to run twice."""

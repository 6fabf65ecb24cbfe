"""The kind `bench`: tells the bench when its GPU work begins and ends. It imports no torch and sends no task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from worker.handlers.context import JobContext
from worker.jobs.lease import Lease
from worker.jobs.started_job import Row
from worker.kinds import Kind, no_texts
from worker.storage.lora_cache import StoredLora

from .events import send


class BenchRequest(Row):
    """The request column of `bench_jobs`, and the LoRAs of the payload."""

    seconds: float
    inputs: dict[str, Any]


def loras(inputs: dict[str, Any]) -> Iterable[StoredLora]:
    """Return the LoRAs of a waiting job."""
    return [StoredLora.model_validate(lora) for lora in inputs["loras"]]


async def bench(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Keep the GPU for the requested time, reporting as a training does."""
    send("picked up", lease.id)
    request = lease.job.request(BenchRequest)
    for lora in loras(request.inputs):
        await context.loras.get(lora, context.workdir)
    send("on the GPU", lease.id)
    end = time.monotonic() + request.seconds
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(1.0, left))
        await lease.report(max(0.0, 1 - left / request.seconds), "working", {"left": round(left)})
    send("done", lease.id)
    context.mark_computed(lease)
    return {}


KIND = Kind("bench", bench, no_texts, prefetch=loras)

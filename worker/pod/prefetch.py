"""While the GPU is busy, fetch what the next job will need. A wrong guess costs a download: nothing is claimed."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import structlog

from worker.database.pool import Database
from worker.database.transient import is_transient
from worker.errors import WorkerError
from worker.pod.job_runner import PodServices

log = structlog.get_logger()

LOOK_AHEAD = 1


async def prefetch(services: PodServices, routes: list[str]) -> None:
    """Fetch base and LoRAs of the job at the head of these routes; `worker.peek` names only people who agree."""
    try:
        for waiting in await services.database.call_once("peek", routes, LOOK_AHEAD):
            if waiting["base"] is not None:
                # A guess evicts nothing: the running job may still be loading what was used before.
                await services.models.ensure(waiting["base"], may_evict=False)
            await _fetch_loras(waiting, services)
    except (WorkerError, OSError) as error:
        log.info("prefetch.failed", reason=type(error).__name__)  # the job itself will say what is wrong
    except Exception as error:
        if not is_transient(error):
            log.exception("prefetch.crashed")  # no reason to end the process: the job will fail with the same
        else:
            log.info("prefetch.failed", reason=type(error).__name__)


async def _fetch_loras(waiting: dict[str, Any], services: PodServices) -> None:
    folder = await asyncio.to_thread(services.workspace.attempt, f"prefetch-{waiting['id']}")
    try:
        for lora in services.kinds[waiting["kind"]].prefetch(waiting["inputs"]):
            # Again, because the base may have taken an hour.
            if lora.subject_id is None or await _agrees(services.database, lora.subject_id, waiting["kind"]):
                await services.loras.get(lora, folder)
    finally:
        await asyncio.to_thread(services.workspace.end_attempt, folder)


async def _agrees(database: Database, subject_id: UUID, kind: str) -> bool:
    """Return True if the person agrees to what the kind is for."""
    refusal = "select worker.consent_error(%s, purpose) as reason from worker.job_kinds where kind = %s"
    (answer,) = await database.fetch(refusal, [subject_id, kind])
    return answer["reason"] is None

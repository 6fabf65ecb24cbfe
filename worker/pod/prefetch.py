"""Prefetch: while the GPU is busy, download what the next job needs. Nothing is claimed: a wrong guess is harmless."""

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
    """Download base model and LoRAs of the first job of these routes; `worker.peek` names only people who consent."""
    try:
        for waiting in await services.database.call_once("peek", routes, LOOK_AHEAD):
            if waiting["base"] is not None:
                # A guess evicts nothing: the running job may still be loading what was used before.
                await services.models.ensure(waiting["base"], may_evict=False)
            await _fetch_loras(waiting, services)
    except (WorkerError, OSError) as error:
        log.info("prefetch.failed", reason=type(error).__name__)  # the job itself will report the error
    except Exception as error:
        if not is_transient(error):
            log.exception("prefetch.crashed")  # do not end the process: the job will fail with the same error
        else:
            log.info("prefetch.failed", reason=type(error).__name__)


async def _fetch_loras(waiting: dict[str, Any], services: PodServices) -> None:
    folder = await asyncio.to_thread(services.workspace.attempt, f"prefetch-{waiting['id']}")
    try:
        for lora in services.kinds[waiting["kind"]].prefetch(waiting["inputs"]):
            # Checked again, because the download of the base may have taken an hour.
            if lora.subject_id is None or await _consents(services.database, lora.subject_id, waiting["kind"]):
                await services.loras.get(lora, folder)
    finally:
        await asyncio.to_thread(services.workspace.end_attempt, folder)


async def _consents(database: Database, subject_id: UUID, kind: str) -> bool:
    """Return True if the person consents to the purpose of the kind."""
    refusal = "select worker.consent_error(%s, purpose) as reason from worker.job_kinds where kind = %s"
    (answer,) = await database.fetch(refusal, [subject_id, kind])
    return answer["reason"] is None

"""Prefetch: while the GPU is busy, download what the next job needs. Nothing is claimed: a wrong guess is harmless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import structlog

from worker.database.transient import is_transient
from worker.errors import WorkerError
from worker.pod.background_tasks import wait_for_event
from worker.pod.job_runner import PodServices
from worker.storage.prefetched_files import person_of

log = structlog.get_logger()

LOOK_AHEAD = 1
LOOK_AFTER_S = 0.1
"""After the GPU's work began, or a job was queued: while jobs take less than this, there is nothing to gain."""
LOOK_EVERY_S = 120.0
"""While the GPU is busy, in case a notification was lost."""


class Prefetch:
    """Looks ahead when the GPU's work begins and, while nothing is known to wait, whenever a job is queued."""

    def __init__(self, services: PodServices, routes: Callable[[], list[str]]) -> None:
        """`routes` returns the routes of the next GPU job; none while the GPU is idle."""
        self._services = services
        self._routes = routes
        self._due = asyncio.Event()
        self._next_is_known = False

    def gpu_began(self) -> None:
        """Look ahead for the job after the one that began."""
        self._next_is_known = False
        self._due.set()

    def queue_changed(self) -> None:
        """Look ahead unless the next job is known."""
        if not self._next_is_known:
            self._due.set()

    async def run(self) -> None:
        """Look ahead whenever that is due; never returns."""
        while True:
            if await wait_for_event(self._due, LOOK_EVERY_S):
                await asyncio.sleep(LOOK_AFTER_S)
            self._due.clear()
            routes = self._routes()
            if routes:
                self._next_is_known = await prefetch(self._services, routes)


async def prefetch(services: PodServices, routes: list[str]) -> bool:
    """Download what the first job of these routes needs; return True if there is one.

    `worker.peek` names only people who consent.
    """
    waiting: list[dict[str, Any]] = []
    try:
        waiting = await services.database.call_once("peek", routes, LOOK_AHEAD)
        for job in waiting:
            # Before the base, whose download may take an hour: consent was asked just now.
            await _fetch_loras(job, services)
            await _fetch_files(job, services)
            for model in [job["base"], *job["guides"]]:
                if model is not None:
                    # A guess evicts nothing: the running job may still be loading what was used before.
                    await services.models.ensure(model, may_evict=False)
    except (WorkerError, OSError) as error:
        log.info("prefetch.failed", reason=type(error).__name__)  # the job itself will report the error
    except Exception as error:
        if not is_transient(error):
            log.exception("prefetch.crashed")  # do not end the process: the job will fail with the same error
        else:
            log.info("prefetch.failed", reason=type(error).__name__)
    return bool(waiting)


async def _fetch_loras(waiting: dict[str, Any], services: PodServices) -> None:
    folder = await asyncio.to_thread(services.workspace.attempt, f"prefetch-{waiting['id']}")
    try:
        for lora in services.kinds[waiting["kind"]].prefetch(waiting["inputs"]):
            await services.loras.for_purpose(waiting["purpose"]).get(lora, folder)
    finally:
        await asyncio.to_thread(services.workspace.end_attempt, folder)


async def _fetch_files(waiting: dict[str, Any], services: PodServices) -> None:
    if waiting["purpose"] is None:
        return
    objects: dict[UUID, list[tuple[str, str]]] = {}
    if waiting["checkpoint"] is not None and waiting["subject_id"] is not None:
        checkpoint = waiting["checkpoint"]["bucket"], waiting["checkpoint"]["key"]
        objects[UUID(waiting["subject_id"])] = [checkpoint]
    for key in services.kinds[waiting["kind"]].prefetch_keys(waiting["inputs"]):
        person = person_of(key)
        if person is not None:
            objects.setdefault(person, []).append((services.settings.bucket_uploads, key))
    if objects:
        await services.prefetched.fetch(waiting["purpose"], objects)

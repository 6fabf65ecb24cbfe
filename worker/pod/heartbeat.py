"""The heartbeat: tells the database that this pod is alive and which leases it holds, and acts on the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb

from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.pod.background_tasks import wait_for_event
from worker.pod.housekeeping.cache_purge import held_files, purge
from worker.pod.housekeeping.tick import Tick
from worker.pod.job_runner import JobRunner
from worker.pod.registration import Registration
from worker.pod.session import Session
from worker.storage.workspace import Workspace

log = structlog.get_logger()

HEARTBEAT_EVERY_S = 8.0
HEARTBEAT_WITHOUT_SESSION_EVERY_S = 1.0
"""Below the reaper's grace: without its session's lock, only heartbeats show that a pod is alive."""
HEARTBEAT_WITHOUT_LISTEN_EVERY_S = 2.0
"""While a job runs: without notifications, only heartbeats tell that it is to stop."""


@dataclass
class Heartbeat:
    """The heartbeats of one pod. They continue until its last attempt has ended."""

    pod_id: UUID
    database: Database
    session: Session
    runner: JobRunner
    registration: Registration
    tick: Tick
    workspace: Workspace
    on_next_due: Callable[[float | None], None]
    """Told in how many seconds the next deferred job is due."""
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _had_lock: bool = False
    _answered_at: float = field(default_factory=time.monotonic)

    def send_now(self) -> None:
        """Send the next heartbeat without waiting for the interval to pass."""
        self._due.set()

    async def run(self) -> None:
        """Send heartbeats from the first registration on; never returns."""
        await self.session.first_try.wait()
        while True:
            self._due.clear()
            answered = await self._beat()
            self._had_lock = self._had_lock or self.session.has_lock
            await wait_for_event(self._due, self._pause_s(answered))

    def _pause_s(self, answered: bool) -> float:
        lost_lock = self._had_lock and not self.session.has_lock
        if lost_lock or not answered:
            return HEARTBEAT_WITHOUT_SESSION_EVERY_S
        if self.runner.heartbeat_payload() and not self.session.listening:
            return HEARTBEAT_WITHOUT_LISTEN_EVERY_S
        return HEARTBEAT_EVERY_S

    async def wait_unanswered(self, limit_s: float) -> None:
        """Wait until no heartbeat has been answered for `limit_s`."""
        while (left_s := self._answered_at + limit_s - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)  # an answer meanwhile only makes it longer

    async def _beat(self) -> bool:
        """Send one heartbeat and act on its answer. Return False if there was none."""
        with suppress_transient_errors("heartbeat.failed"):
            held = Jsonb(await held_files(self.workspace))
            leases = Jsonb(self.runner.heartbeat_payload())
            answer = await self.database.call_once("pod_heartbeat", self.pod_id, leases, held)
            await self._apply(answer)
            return True
        return False

    async def _apply(self, answer: dict[str, Any]) -> None:
        for state in answer["leases"]:
            self.runner.apply_lease_state(state)
        self._answered_at = time.monotonic()
        await purge(self.workspace, answer["ended"])
        self.tick.set_chosen(answer["tick"])
        self.on_next_due(answer["next_due_s"])
        self.registration.set_digest(answer["routes_digest"])
        if not answer["known"]:
            log.warning("pod.unknown", message="this pod was considered dead; it registers again")
            await self.registration.register()

"""What a pod registers about itself: routes, free GPU memory, models and its lock; again whenever one changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from worker import __version__
from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.errors import StorageError
from worker.pod.background_tasks import wait_for_event
from worker.pod.housekeeping.tick import Tick
from worker.pod.routes import Routes
from worker.pod.session import Session

log = structlog.get_logger()

LOOK_FOR_MODELS_EVERY_S = 20.0
"""A model that was put on the disk or into the bucket is noticed within this time."""
DEREGISTER_WITHIN_S = 2.0


@dataclass
class Registration:
    """This pod's row in `worker.pods`."""

    pod_id: UUID
    name: str
    database: Database
    session: Session
    routes: Routes
    tick: Tick
    on_new_routes: Callable[[], None]
    """The routes that this pod offers have changed, and are registered."""
    _gpu_ready: bool = False
    _free_vram_gib: float | None = None
    _digest: str | None = None
    """Of the kinds and base models in the database, as the last heartbeat's answer had it."""
    _digest_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _registering: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def register(self) -> None:
        """Register what this pod is and offers now; the answer says whether it ticks."""
        # One at a time, so that the last write to arrive has the latest state.
        async with self._registering:
            with suppress_transient_errors("pod.register_failed"):
                reply = await self.database.call(
                    "register_pod",
                    self.pod_id,
                    self.name,
                    sorted(self.routes.slot_of),
                    self._free_vram_gib,
                    self.routes.models_in_reach,
                    self.session.has_lock,
                    __version__,
                )
                self.tick.set_chosen(reply["tick"])

    async def deregister(self) -> None:
        """Delete the row; what the pod still holds is requeued. Where this fails, the reaper does it."""
        with suppress_transient_errors("pod.deregister_failed", TimeoutError):
            async with asyncio.timeout(DEREGISTER_WITHIN_S):
                await self.database.call_once("deregister_pod", self.pod_id)

    async def keep_routes_current(self) -> None:
        """Refresh the routes again and again, from the first registration on; never returns."""
        await self.session.first_try.wait()
        while True:
            self._digest_changed.clear()
            await self.refresh_routes()
            await wait_for_event(self._digest_changed, LOOK_FOR_MODELS_EVERY_S)

    def set_digest(self, digest: str) -> None:
        """Refresh the routes if kinds or base models in the database have changed."""
        if digest != self._digest:
            self._digest = digest
            self._digest_changed.set()

    async def refresh_routes(self) -> None:
        """Determine again which routes this pod can run, and register them if they changed."""
        with suppress_transient_errors("routes.refresh_failed", StorageError):
            try:
                changed = await self.routes.refresh(
                    gpu=self._gpu_ready, free_vram_gib=self._free_vram_gib, digest=self._digest
                )
            except OSError as error:
                # A shared volume may return. Meanwhile, a job that needs one of its models is requeued for another pod.
                log.warning("routes.refresh_failed", reason=str(error))
                return
            if changed:
                await self.register()
                self.on_new_routes()

    async def gpu_is_ready(self, free_vram_gib: float | None) -> None:
        """Offer GPU routes from now on. `free_vram_gib` is None on a CPU."""
        self._gpu_ready, self._free_vram_gib = True, free_vram_gib
        await self.refresh_routes()

    async def refuse_route(self, route: str) -> None:
        """Withdraw a route that this pod cannot run, before its job is requeued."""
        self.routes.refuse(route)
        await self.register()

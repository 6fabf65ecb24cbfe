"""The claim loop of a pod, and its life from start to stop.

One asyncio process for each GPU. It claims one job at a time, and only for a free slot, so that no pod holds a job that
another could run. It never computes: the GPU is used by a child process, encoding and transfers run in threads. The
other parts of a running pod are in `worker/pod/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID, uuid4

import structlog

from worker.database.claim_queue import ClaimQueue
from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.gpu.process import GpuChild
from worker.guard.fetch import Fetcher
from worker.kinds import kinds_of_pod
from worker.models import BaseModels
from worker.pod.background_tasks import (
    cancel_tasks,
    start_tasks,
    wait_for_event,
    wait_for_first,
    wait_while_running,
)
from worker.pod.heartbeat import Heartbeat
from worker.pod.housekeeping.health import keep_touching
from worker.pod.housekeeping.marker import MarkerRenewal
from worker.pod.housekeeping.sweep import Sweep
from worker.pod.housekeeping.tick import Tick
from worker.pod.job_runner import JobRunner, PodServices
from worker.pod.looks import Looks, Outcome
from worker.pod.prefetch import Prefetch
from worker.pod.preflight import BUCKETS, check_installation
from worker.pod.registration import Registration
from worker.pod.routes import Routes
from worker.pod.session import Session
from worker.settings import Settings
from worker.storage.lora_cache import LoraCache
from worker.storage.object_store import ObjectStore
from worker.storage.prefetched_files import PrefetchedFiles
from worker.storage.workspace import Workspace

log = structlog.get_logger()

LIGHT_SLOTS = 2
DUE_MARGIN_S = 0.01
"""Added to the time when a deferred job is due, so that the claim is not a moment too early."""
STOP_WITHOUT_DATABASE_AFTER_S = 20.0
"""Since the last heartbeat that was answered. Below the limit of a container runtime: `--stop-timeout 30`."""


class Worker:
    """One pod process. `run` returns after a graceful stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pod_id: UUID = uuid4()
        self._database = Database(settings.database_url.get_secret_value(), settings.worker_name)
        self._queue = ClaimQueue(self._database, self.pod_id)
        self._store = ObjectStore(settings.store_config)
        config = settings.models_store_config
        self._models_store = self._store if config == settings.store_config else ObjectStore(config)
        self._models = BaseModels(
            settings.models_dir, self._models_store, settings.base_models_bucket, settings.models_max_gb
        )
        kinds = kinds_of_pod(settings.worker_kinds)
        self._gpu = GpuChild(tasks=[task for kind in kinds.values() for task in kind.tasks])
        self._workspace = Workspace(settings.work_dir, self.pod_id)
        self._free = {"gpu": 1, "light": LIGHT_SLOTS}
        self._wake = asyncio.Event()
        """There is something to do for the claim loop: a look at the queue, or the pod stops."""
        self._looks = Looks(self._free)
        self._due: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._abort = asyncio.Event()
        buckets = {getattr(settings, name) for name in BUCKETS}
        self._markers = MarkerRenewal(self._database, self._store, buckets)
        self._sweep = Sweep(self._database, self._store, buckets)
        self._tick = Tick(self._database, on_deletable_objects=self._sweep.request)
        self._session = Session(
            url=settings.listen_url.get_secret_value(),
            database=self._database,
            pod_id=self.pod_id,
            on_queue=self._on_queue,
            on_cancel=self._on_cancel,
            on_state=self._on_session,
        )
        self._routes = Routes(self._database, self._models, kinds)
        self._registration = Registration(
            self.pod_id, settings.worker_name, self._database, self._session, self._routes, self._tick, self._on_queue
        )
        self._services = PodServices(
            settings,
            kinds,
            self._database,
            self._store,
            self._models,
            self._gpu,
            LoraCache(self._store, settings.bucket_models, self._workspace),
            self._workspace,
            PrefetchedFiles(self._store, self._workspace),
            Fetcher(settings.fetch_private_hosts),
        )
        self._prefetch = Prefetch(self._services, self._gpu_routes_if_busy)
        self._runner = JobRunner(self._services, self._registration)
        self._heartbeat = Heartbeat(
            self.pod_id,
            self._database,
            self._session,
            self._runner,
            self._registration,
            self._tick,
            self._workspace,
            self._wake_when_due,
        )

    # -- from start to stop

    async def run(self) -> None:
        """Work until `request_stop`. Raises SettingsError before anything starts if a setting is wrong."""
        async with self._database:
            check = check_installation(self._settings, self._database, self._store, self._models_store)
            await wait_for_first(self._stopping.wait(), check)
            with self._workspace:
                try:
                    await self._work_until_stopped()
                finally:
                    await self._gpu.stop()
                    for store in {self._store, self._models_store}:
                        await store.close()
                    await self._registration.deregister()
        log.info("worker.stopped", pod_id=str(self.pod_id))

    def request_stop(self) -> None:
        """First call: claim nothing, requeue running jobs, publish what is computed. Second call: stop at once."""
        if self._stopping.is_set():
            log.warning("worker.stopping_at_once")
            self._abort.set()
        else:
            log.info("worker.stopping", running=len(self._runner.leases))
            self._stopping.set()
            self._wake.set()

    async def _work_until_stopped(self) -> None:
        accepting = start_tasks(
            claim=self._claim_loop(),
            routes=self._registration.keep_routes_current(),
            gpu=self._start_gpu(),
            prefetch=self._prefetch.run(),
        )
        staying_alive = start_tasks(
            session=self._session.run(),
            heartbeat=self._heartbeat.run(),
            tick=self._tick.run(),
            housekeeping=self._tick.run_housekeeping(),
            sweep=self._sweep.run(),
            markers=self._markers.run(),
            health=keep_touching(self._workspace),
        )
        try:
            await wait_while_running(self._stopping.wait(), accepting + staying_alive)
            # No claim may start from here on; one whose reply is cut off here is requeued when the pod deregisters.
            await cancel_tasks(accepting)
            self._runner.shut_down()
            ended = wait_for_first(self._abort.wait(), self._runner.drain(), self._database_gone())
            await wait_while_running(ended, staying_alive)
        finally:
            self._runner.cancel_all()
            await cancel_tasks(accepting + staying_alive)
            await self._runner.drain()

    async def _database_gone(self) -> None:
        """Wait until attempts can no longer report how they end. The reaper then gives their jobs to other pods."""
        await self._heartbeat.wait_unanswered(STOP_WITHOUT_DATABASE_AFTER_S)
        log.warning("worker.stopping_without_database", running=len(self._runner.leases))

    async def _start_gpu(self) -> None:
        ready = await self._gpu.start()
        await self._registration.gpu_is_ready(ready.free_vram_gib)
        log.info(
            "worker.ready",
            pod_id=str(self.pod_id),
            device=ready.device,
            vram_gib=ready.vram_gib,
            free_vram_gib=ready.free_vram_gib,
            routes=sorted(self._routes.slot_of),
        )

    def _on_queue(self, route: str = "") -> None:
        """Look at the queue again: something of this route may have become claimable; of any, if it is empty."""
        offered = self._routes.slot_of
        if route and route not in offered:
            return
        self._look_again({offered[route]} if route else self._free)
        self._prefetch.queue_changed()

    def _look_again(self, slots: Collection[str]) -> None:
        self._looks.look_again(slots)
        self._wake.set()

    def _gpu_routes_if_busy(self) -> list[str]:
        return [] if self._free["gpu"] else [route for route, slot in self._routes.slot_of.items() if slot == "gpu"]

    async def _on_session(self) -> None:
        self._heartbeat.send_now()  # without a session, only heartbeats show that this pod is alive
        self._on_queue()  # and only looking tells what is queued
        await self._registration.register()

    def _on_cancel(self, key: str) -> None:
        if key in self._runner.leases:
            self._heartbeat.send_now()  # its answer interrupts the attempt

    # -- claiming

    async def _claim_loop(self) -> None:
        await self._session.first_try.wait()
        while not self._stopping.is_set():
            self._wake.clear()
            free = {slot for slot, count in self._free.items() if count > 0}
            looking = self._looks.begin(free)
            if looking:
                outcome: Outcome = "failed"
                with suppress_transient_errors("claim.failed"):
                    outcome = await self._look(looking)
                self._looks.end(looking, outcome, listening=self._session.listening)
            await wait_for_event(self._wake, self._looks.wait_s(free))

    async def _look(self, slots: set[str]) -> Outcome:
        """Claim one job for one of these slots, and begin it."""
        slot_of = dict(self._routes.slot_of)  # a route may be dropped while a claim for it is running
        routes = [route for route, slot in slot_of.items() if slot in slots]
        claim = await self._claim(routes, in_order=not (self._session.listening and self._looks.is_poll(slots)))
        if claim is not None:
            self._begin(*claim, slot_of)
            return "claimed"
        if self._session.listening and self._looks.is_first(slots):
            self._wake_when_due(await self._database.call_once("next_due_s", list(slot_of)))
        return "in vain"

    async def _claim(self, routes: list[str], *, in_order: bool) -> tuple[str, UUID] | None:
        """Claim one job: in order, of a route that has waited too long, else of the loaded base, else of any."""
        preferences = await self._preferences(routes) if in_order else []
        for wanted in [*preferences, routes]:
            claim = await self._queue.claim(wanted) if wanted else None
            if claim is not None:
                return claim
        return None

    async def _preferences(self, routes: list[str]) -> list[list[str]]:
        """Return the routes to ask for before all others, the most urgent first."""
        # A route without a base counts as one of the loaded base: its job makes the GPU load no other weights.
        loaded = [route for route in routes if self._routes.weights_of(route) in ("", self._runner.loaded_base)]
        if self._runner.loaded_base is None or len(loaded) == len(routes):
            return []  # no base is loaded, or all routes use it: no affinity, so no route can starve
        wait = timedelta(seconds=self._settings.max_affinity_wait_s)
        starved = await self._database.call_once("starved_routes", routes, wait)
        return [wanted for wanted in (starved, loaded) if wanted]

    def _begin(self, kind: str, job_id: UUID, slot_of: dict[str, str]) -> None:
        """Run a claimed job in its slot."""
        # A claim names the kind, not the route; all routes of a kind have the same slot.
        slot = next(slot for route, slot in slot_of.items() if route.split("/")[0] == kind)
        self._free[slot] -= 1
        if slot == "gpu":
            self._prefetch.gpu_began()
        if not self._session.listening:
            self._heartbeat.send_now()  # the first of many, while the job runs
        freed = False

        def free_slot() -> None:
            nonlocal freed
            if not freed:
                freed = True
                self._free[slot] += 1
                # Without notifications, only looking tells what was queued meanwhile.
                self._look_again({slot} if self._session.listening else self._free)

        self._runner.begin(kind, job_id, free_slot)

    def _wake_when_due(self, seconds: float | None) -> None:
        """Wake the claim loop when the next deferred job is due; None if none is known.

        The earliest time stays: a job that became due a moment ago is not the next any more, and not claimed yet.
        """
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        due_at = loop.time() + seconds + DUE_MARGIN_S
        if self._due is not None and self._due.when() <= due_at:
            return
        if self._due is not None:
            self._due.cancel()
        self._due = loop.call_at(due_at, self._on_due)

    def _on_due(self) -> None:
        self._due = None
        self._on_queue()

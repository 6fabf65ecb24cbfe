"""The claim loop of a pod: slots, routes, heartbeats, interrupts, housekeeping, shutdown.

One asyncio process for each GPU. It claims one job at a time, only for a free slot, so no pod sits on work that another
could do. It never computes: the GPU belongs to a child process, encoding to threads, transfers to the store's threads.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from psycopg.types.json import Jsonb

from worker import __version__
from worker.database.pool import ClaimQueue, Database, is_transient
from worker.errors import StorageError
from worker.gpu.process import GpuChild
from worker.kinds import kinds_of_pod
from worker.models import BaseModels
from worker.pod.job_runner import JobRunner, PodServices
from worker.pod.prefetch import prefetch
from worker.pod.preflight import check_installation
from worker.pod.routes import Routes
from worker.pod.session import Session
from worker.settings import Settings
from worker.storage.lora_cache import LoraCache
from worker.storage.object_store import ObjectStore
from worker.storage.workspace import Workspace

log = structlog.get_logger()

LIGHT_SLOTS = 2
HEARTBEAT_S = 8.0
HEARTBEAT_WITHOUT_SESSION_S = 1.0
TICK_S = 2.0
POLL_S = 30.0
POLL_WITHOUT_LISTEN_S = 2.0
ROUTES_REFRESH_S = 20.0
"""How long a pod takes to notice a model that was put on its disk or into the bucket."""
TOUCH_S = 5.0
LEAVE_WITHIN_S = 2.0
STOP_WITHOUT_DATABASE_S = 20.0
"""Since the last heartbeat that was answered. What stops a pod waits longer: `--stop-timeout 30`."""
FORGET_AFTER_S = 45.0
"""A heartbeat tells whose consent ended in the last minute; after a longer silence, everybody's cache goes."""
WARM_EVERY_S = 15.0
SWEEP_LIMIT = 100
UNFINISHED_UPLOAD_AGE = timedelta(0)
"""PodServices under a garbage key belong to an attempt that has ended, whatever their age."""


class Worker:
    """One pod process. `run` returns after a graceful stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pod_id: UUID = uuid4()
        self._database = Database(settings.database_url.get_secret_value(), settings.worker_name)
        self._queue = ClaimQueue(self._database, self.pod_id)
        self._store = ObjectStore(settings.store_config)
        self._models = BaseModels(settings.models_dir, self._store, settings.bucket_models, settings.models_max_gb)
        kinds = kinds_of_pod(settings.worker_kinds)
        self._gpu = GpuChild(tasks=[task for kind in kinds.values() for task in kind.tasks])
        self._workspace = Workspace(settings.work_dir, self.pod_id)
        self._routes = Routes(self._database, self._models, kinds)
        self._session = Session(
            url=settings.listen_url.get_secret_value(),
            database=self._database,
            pod_id=self.pod_id,
            on_queue=self._wake_up,
            on_cancel=self._on_cancel,
            on_state=self._on_session,
        )
        self._loras = LoraCache(self._store, settings.bucket_models, self._workspace)
        self._services = PodServices(
            settings, kinds, self._database, self._store, self._models, self._gpu, self._loras, self._workspace
        )
        self._attempts = JobRunner(self._services, self)
        self._free = {"gpu": 1, "light": LIGHT_SLOTS}
        self._vram_gib: float | None = None
        self._gpu_ready = False
        self._had_lock = False
        self._answered_at = time.monotonic()
        self._registering = asyncio.Lock()
        self._gpu_began = asyncio.Event()
        self._wake = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._ticks = asyncio.Event()
        self._garbage = asyncio.Event()
        self._stopping = asyncio.Event()
        self._abort = asyncio.Event()

    # -- from start to stop

    async def run(self) -> None:
        """Work until `request_stop`. Raises SettingsError before anything starts when a setting cannot be right."""
        async with self._database:
            check = check_installation(self._settings, self._database, self._store)
            await _first_of(self._stopping.wait(), check)
            with self._workspace:
                try:
                    await self._work_until_stopped()
                finally:
                    await self._gpu.stop()
                    await self._store.close()
                    await self._leave()
        log.info("worker.stopped", pod_id=str(self.pod_id))

    def request_stop(self) -> None:
        """First: claim nothing, give running jobs back, publish what is computed. Second: stop at once."""
        if self._stopping.is_set():
            log.warning("worker.stopping_at_once")
            self._abort.set()
        else:
            log.info("worker.stopping", running=len(self._attempts.leases))
            self._stopping.set()
            self._wake_up()

    async def _leave(self) -> None:
        try:
            await asyncio.wait_for(self._database.call_once("leave_pod", self.pod_id), LEAVE_WITHIN_S)
        except Exception as error:
            if not (is_transient(error) or isinstance(error, TimeoutError)):
                raise
            # The reaper gives back what this would have.
            log.warning("pod.leave_failed", reason=type(error).__name__)

    async def _work_until_stopped(self) -> None:
        taking = _tasks(
            claim=self._claim_loop(), routes=self._routes_loop(), gpu=self._start_gpu(), warm=self._warm_loop()
        )
        living = _tasks(
            session=self._session.run(),
            heartbeat=self._heartbeat_loop(),
            tick=self._tick_loop(),
            sweep=self._sweep_loop(),
            health=self._health_loop(),
        )
        try:
            await _until(self._stopping.wait(), taking + living)
            # No claim may begin behind the back of what follows; one whose reply is cut off here goes back at leaving.
            await _cancel(taking)
            self._attempts.shut_down()
            await _until(_first_of(self._abort.wait(), self._attempts.drain(), self._database_gone()), living)
        finally:
            self._attempts.cancel_all()
            await _cancel(taking + living)
            await self._attempts.drain()

    async def _database_gone(self) -> None:
        """Until nobody can be told what the attempts come to. Whoever reaps this pod gives their jobs to others."""
        while (left_s := self._answered_at + STOP_WITHOUT_DATABASE_S - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)  # an answer meanwhile only makes it longer
        log.warning("worker.stopping_without_database", running=len(self._attempts.leases))

    # -- claiming

    async def _claim_loop(self) -> None:
        await self._session.first_try.wait()
        while not self._stopping.is_set():
            self._wake.clear()
            slot_of = dict(self._routes.slot_of)  # a route may be dropped while the claim for it is under way
            routes = [route for route, slot in slot_of.items() if self._free[slot] > 0]
            try:
                claim = await self._claim(routes) if routes else None
                if claim is not None:
                    self._begin(*claim, slot_of)
                    continue
                pause_s = await self._pause_s(routes)
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("claim.failed", reason=type(error).__name__)
                pause_s = 1.0
            # With no free slot there is nothing to ask: only a freed one wakes the loop.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)

    async def _claim(self, routes: list[str]) -> tuple[str, UUID] | None:
        """One job: of a route that has waited too long, else of the loaded base, else any."""
        for preferred in await self._preferences(routes):
            claim = await self._queue.claim(preferred)
            if claim is not None:
                return claim
        claim = await self._queue.claim(routes)
        if claim is None:
            # pgqueuer locks the head of every route it is asked for and keeps one: two pods can hide jobs from
            # each other for a moment.
            await asyncio.sleep(random.uniform(0.02, 0.06))  # noqa: S311  jitter is no secret
            claim = await self._queue.claim(routes)
        return claim

    async def _preferences(self, routes: list[str]) -> list[list[str]]:
        loaded = [route for route in routes if route.partition("/")[2] in ("", self._attempts.loaded_base)]
        if self._attempts.loaded_base is None or len(loaded) == len(routes):
            return []  # nothing is loaded, or all that is offered: no affinity that could starve anybody
        wait = timedelta(seconds=self._settings.max_affinity_wait_s)
        starved = await self._database.call_once("starved_routes", routes, wait)
        return [wanted for wanted in (starved, loaded) if wanted]

    def _begin(self, kind: str, job_id: UUID, slot_of: dict[str, str]) -> None:
        slot = next(slot for route, slot in slot_of.items() if route.split("/")[0] == kind)
        self._free[slot] -= 1
        if slot == "gpu":
            self._gpu_began.set()
        freed = False

        def free_slot() -> None:
            nonlocal freed
            if not freed:
                freed = True
                self._free[slot] += 1
                self._wake_up()

        self._attempts.begin(kind, job_id, free_slot)

    async def _pause_s(self, routes: list[str]) -> float | None:
        if not routes:
            return None
        if not self._session.listening:
            return POLL_WITHOUT_LISTEN_S
        due_s = await self._queue.next_due_s(routes)
        jitter = random.uniform(0.9, 1.0)  # noqa: S311  jitter is no secret
        return POLL_S * jitter if due_s is None else min(POLL_S * jitter, due_s + 0.01)

    def _wake_up(self) -> None:
        self._wake.set()

    # -- staying alive

    async def _heartbeat_loop(self) -> None:
        await self._session.first_try.wait()  # by then this pod is registered
        while True:
            self._beat_now.clear()
            answered = await self._beat()
            self._had_lock = self._had_lock or self._session.has_lock
            lost_session = self._had_lock and not self._session.has_lock
            pause_s = HEARTBEAT_WITHOUT_SESSION_S if lost_session or not answered else HEARTBEAT_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beat_now.wait(), pause_s)

    async def _beat(self) -> bool:
        try:
            reply = await self._database.call_once("heartbeat", self.pod_id, Jsonb(self._attempts.heartbeat_payload()))
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("heartbeat.failed", reason=type(error).__name__)
            return False
        for state in reply["leases"]:
            self._attempts.apply_lease_state(state)
        if time.monotonic() - self._answered_at > FORGET_AFTER_S:
            await asyncio.to_thread(self._loras.forget_all)
        self._answered_at = time.monotonic()
        for subject_id in reply["ended_subjects"]:
            if await asyncio.to_thread(self._loras.forget, UUID(subject_id)):
                log.info("cache.forgotten", subject_id=subject_id)
        self._set_ticking(reply["tick"])
        if not reply["known"]:
            log.warning("pod.unknown", what="this pod was held for dead; it registers again")
            await self._register()
        return True

    async def _on_session(self) -> None:
        self._beat_now.set()  # without a session it is heartbeats that say this pod lives
        await self._register()

    def _on_cancel(self, key: str) -> None:
        if key in self._attempts.leases:
            self._beat_now.set()

    async def _register(self) -> None:
        # One at a time, so that what lands last is what was true last.
        async with self._registering:
            try:
                reply = await self._database.call(
                    "register_pod",
                    self.pod_id,
                    self._settings.worker_name,
                    sorted(self._routes.slot_of),
                    self._vram_gib,
                    self._routes.models_in_reach,
                    self._session.has_lock,
                    __version__,
                )
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("pod.register_failed", reason=type(error).__name__)
                return
        self._set_ticking(reply["tick"])

    async def _health_loop(self) -> None:
        while True:
            self._workspace.touch()
            await asyncio.sleep(TOUCH_S)

    # -- what this pod offers

    async def _start_gpu(self) -> None:
        ready = await self._gpu.start()
        self._vram_gib, self._gpu_ready = ready.vram_gib, True
        await self._refresh_routes()
        log.info(
            "worker.ready",
            pod_id=str(self.pod_id),
            device=ready.device,
            vram_gib=ready.vram_gib,
            routes=sorted(self._routes.slot_of),
        )

    async def _routes_loop(self) -> None:
        await self._session.first_try.wait()
        while True:
            await self._refresh_routes()
            await asyncio.sleep(ROUTES_REFRESH_S)

    async def _refresh_routes(self) -> None:
        try:
            changed = await self._routes.refresh(gpu=self._gpu_ready, vram_gib=self._vram_gib)
        except OSError as error:
            # A shared volume may come back. A job that needs a model of it meanwhile goes to another pod.
            log.warning("routes.refresh_failed", reason=str(error))
            return
        except Exception as error:
            if not (is_transient(error) or isinstance(error, StorageError)):
                raise
            log.warning("routes.refresh_failed", reason=type(error).__name__)
            return
        if changed:
            await self._register()
            self._wake_up()

    async def refuse_route(self, route: str) -> None:
        """This pod cannot do a route after all: say so before the job is given back."""
        self._routes.refuse(route)
        await self._register()

    async def _warm_loop(self) -> None:
        while True:
            await self._gpu_began.wait()
            self._gpu_began.clear()
            while self._free["gpu"] == 0:
                routes = [route for route, slot in self._routes.slot_of.items() if slot == "gpu"]
                await prefetch(self._services, routes)
                await asyncio.sleep(WARM_EVERY_S)

    # -- housekeeping

    def _set_ticking(self, ticking: bool) -> None:
        if ticking:
            self._ticks.set()
        else:
            self._ticks.clear()

    async def _tick_loop(self) -> None:
        while True:
            await self._ticks.wait()
            try:
                if await self._database.call_once("tick"):
                    self._garbage.set()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("tick.failed", reason=type(error).__name__)
            await asyncio.sleep(TICK_S)

    async def _sweep_loop(self) -> None:
        """Apart from the ticks: while a store hangs, the jobs of dead pods are still taken over."""
        while True:
            await self._garbage.wait()
            self._garbage.clear()
            try:
                await self._sweep()
            except Exception as error:
                if not (is_transient(error) or isinstance(error, StorageError)):
                    raise
                log.warning("sweep.failed", reason=type(error).__name__)

    async def _sweep(self) -> None:
        """Delete in storage what ended attempts left. It was marked and committed before; it is offered again later."""
        garbage = await self._database.call_once("take_garbage", SWEEP_LIMIT)
        for bucket in {item["bucket"] for item in garbage}:
            items = [item for item in garbage if item["bucket"] == bucket]
            try:
                await self._store.delete(bucket, [item["key"] for item in items])
                for item in items:
                    await self._store.abort_uploads(bucket, item["key"], UNFINISHED_UPLOAD_AGE)
            except StorageError as error:
                log.warning("sweep.failed", bucket=bucket, error=error.message)
                continue  # it is offered again in a minute
            await self._database.call("garbage_gone", [item["id"] for item in items])
            log.info("garbage.deleted", bucket=bucket, objects=len(items))


def _tasks(**work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()]


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until(end: Coroutine[Any, Any, Any], background: list[asyncio.Task[None]]) -> None:
    """Wait for `end`. A loop that dies meanwhile takes the process with it: half a worker looks alive."""
    ending = asyncio.create_task(end)
    waiting: set[asyncio.Task[Any]] = {ending, *background}
    try:
        while not ending.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ending}:
                task.result()
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def _first_of(*work: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of them is done, and raise what it raised; the others are cancelled."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancel(tasks)

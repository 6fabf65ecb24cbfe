"""The attempts of this pod, from their claim to their end. Every outcome passes through one place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import structlog

from worker import errors
from worker.database.pool import Database
from worker.database.transient import Fault, fault_of, is_transient
from worker.errors import Interruption, JobInterrupted
from worker.gpu.process import GpuChild, Interrupted
from worker.guard import consent, prompts
from worker.guard.fetch import Fetcher
from worker.handlers.context import JobContext, Traffic
from worker.jobs.lease import Lease
from worker.jobs.started_job import StartedJob
from worker.jobs.starting import start_job
from worker.kinds import Kind
from worker.models import BaseModels, JobModels
from worker.pod.background_tasks import wait_for_event
from worker.pod.registration import Registration
from worker.settings import Settings
from worker.storage.lora_cache import LoraCache
from worker.storage.object_store import ObjectStore
from worker.storage.prefetched_files import PrefetchedFiles
from worker.storage.workspace import Workspace

log = structlog.get_logger()

OUTAGE_PAUSE_S = 5.0
STOP_GRACE_S = 5.0
SHUTDOWN_GRACE_S = 1.0
UPLOAD_DEADLINE_S = 600.0
"""`worker.mark_objects_deleted` waits longer than this before it offers a deleted object again."""


@dataclass(frozen=True)
class PodServices:
    """The parts of a pod that its attempts use."""

    settings: Settings
    kinds: Mapping[str, Kind]
    database: Database
    store: ObjectStore
    models: BaseModels
    gpu: GpuChild
    loras: LoraCache
    workspace: Workspace
    prefetched: PrefetchedFiles
    fetcher: Fetcher


class JobRunner:
    """The attempts that run on this pod."""

    def __init__(self, services: PodServices, registration: Registration) -> None:
        self._services = services
        self._registration = registration
        self._claims: set[tuple[str, UUID]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shutting_down = False
        self.leases: dict[str, Lease] = {}
        """By kind:id."""
        self.loaded_base: str | None = None
        """The slug of the base model whose weights the GPU process holds, as far as the parent knows."""

    def begin(self, kind: str, job_id: UUID, free_slot: Callable[[], None]) -> None:
        """Run a claimed job in a task of its own."""
        self._claims.add((kind, job_id))
        task = asyncio.create_task(self._run(kind, job_id, free_slot), name=f"{kind}:{job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def heartbeat_payload(self) -> list[dict[str, Any]]:
        """Return every lease and every claim not yet started, as a heartbeat names them."""
        claims = [{"kind": kind, "id": str(job_id), "attempt": None} for kind, job_id in self._claims]
        return [lease.heartbeat_payload() for lease in self.leases.values()] + claims

    def apply_lease_state(self, state: dict[str, Any]) -> None:
        """Interrupt an attempt if a heartbeat's answer about its lease says so."""
        lease = self.leases.get(f"{state['kind']}:{state['id']}")
        if lease is not None and lease.attempt == state["attempt"] and state["state"] != "ok":
            lease.interrupt(Interruption(state["state"]))

    def shut_down(self) -> None:
        """Tell every attempt to stop that is not publishing yet, also those that are just being started."""
        self._shutting_down = True
        for lease in self.leases.values():
            if not lease.computed:
                lease.interrupt(Interruption.SHUTDOWN)

    async def drain(self) -> None:
        """Wait until no attempt runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel_all(self) -> None:
        """Stop at once; the database requeues the jobs when the pod deregisters."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, kind: str, job_id: UUID, free_slot: Callable[[], None]) -> None:
        lease: Lease | None = None
        try:
            lease = await self._start(kind, job_id)
            if lease is not None:
                with structlog.contextvars.bound_contextvars(kind=kind, job_id=str(job_id), attempt=lease.attempt):
                    await self._run_lease(lease, free_slot)
        except Exception:
            # The database was not told how the attempt ended. No heartbeat names the job any more, so it is requeued.
            log.exception("job.abandoned", kind=kind, job_id=str(job_id))
        finally:
            self._claims.discard((kind, job_id))
            # Only its own: a pod that was considered dead may have claimed the job again meanwhile.
            if lease is not None and self.leases.get(lease.key) is lease:
                del self.leases[lease.key]
            free_slot()

    async def _start(self, kind: str, job_id: UUID) -> Lease | None:
        job = await start_job(self._services.database, kind, job_id, self._registration.pod_id)
        if job is None:
            return None
        lease = Lease(self._services.database, job)
        self.leases[lease.key] = lease
        self._claims.discard((kind, job_id))
        if self._shutting_down:
            lease.interrupt(Interruption.SHUTDOWN)
        return lease

    async def _run_lease(self, lease: Lease, free_slot: Callable[[], None]) -> None:
        log.info("job.started")
        started = time.monotonic()
        try:
            workdir = await asyncio.to_thread(
                self._services.workspace.attempt, f"{lease.kind}-{lease.id}-{lease.attempt}"
            )
        except OSError as error:
            # Otherwise this pod would claim and release every job of the queue.
            log.error("pod.disk_failed", reason=error.strerror)
            await self._registration.refuse_route(lease.job.route)
            await lease.release(f"requeued: its pod's disk failed, {error.strerror}")
            return
        context = self._context(workdir, lease.job.purpose, self._make_slot_release(lease, free_slot))
        try:
            outcome, detail = await self._outcome(lease, context)
        finally:
            context.models.end()
            await asyncio.to_thread(self._services.workspace.end_attempt, workdir)
        _log_finished(lease, context.traffic, time.monotonic() - started, outcome=outcome, **detail)

    def _make_slot_release(self, lease: Lease, free_slot: Callable[[], None]) -> Callable[[], None]:
        """Return a function that frees the slot, after it has set `loaded_base` for the next claim."""

        def freed() -> None:
            if lease.job.base is not None:
                self.loaded_base = lease.job.base.weights_slug
            free_slot()

        return freed

    def _context(self, workdir: Path, purpose: str | None, free_slot: Callable[[], None]) -> JobContext:
        return JobContext(
            database=self._services.database,
            store=self._services.store,
            models=JobModels(self._services.models),
            gpu=self._services.gpu,
            loras=self._services.loras.for_purpose(purpose),
            bucket_uploads=self._services.settings.bucket_uploads,
            bucket_models=self._services.settings.bucket_models,
            bucket_meshes=self._services.settings.bucket_meshes,
            fetcher=self._services.fetcher,
            upscaler_backend=self._services.settings.upscaler,
            checkpoint_every_s=self._services.settings.checkpoint_every_s,
            upload_deadline_s=UPLOAD_DEADLINE_S,
            workdir=workdir,
            prefetched=self._services.prefetched,
            free_slot=free_slot,
            traffic=Traffic(),
        )

    async def _outcome(self, lease: Lease, context: JobContext) -> tuple[str, dict[str, Any]]:
        """Run the handler and end the attempt. Return how it ended, and what to log about it."""
        try:
            result = await self._run_handler(lease, context)
            outcome = await lease.complete(result)
            if outcome == "invalid":
                return await lease.fail(errors.InternalError("the worker's result was malformed")), {}
            return outcome, {"gpu_peak_gib": result.get("peak_gib")}
        except JobInterrupted as interruption:
            return await self._end_interrupted(lease, interruption.reason), {"reason": interruption.reason.value}
        except (errors.ModelMissing, errors.OutOfMemory) as error:
            self.loaded_base = None
            await self._registration.refuse_route(lease.job.route)
            return await lease.release(error.message, error.code), {
                "code": error.code,
                "error": error.message,
            }
        except errors.WorkerError as error:
            retry_after = None
            if isinstance(error, errors.WorkerLost):
                self.loaded_base = None
                # After the GPU process died once, retry at once; if it dies again, wait longer.
                retry_after = timedelta(0) if lease.job.row["failures"] == 0 else None
            return await lease.fail(error, retry_after), {"code": error.code, "error": error.message}
        except Exception as error:
            if is_transient(error):
                return await self._release_after_outage(lease, error)
            log.exception("job.crashed")
            fault = _fault(error)
            return await lease.fail(fault), {"code": fault.code, "error": fault.message}

    async def _release_after_outage(self, lease: Lease, error: Exception) -> tuple[str, dict[str, Any]]:
        """Requeue a job that the database failed, which is not the job's failure."""
        log.warning("job.database_failed", reason=type(error).__name__)
        # Otherwise a pod that is lent no connection would claim and release the job without a pause.
        await wait_for_event(lease.interrupted, OUTAGE_PAUSE_S)
        return await lease.release("requeued: the database did not respond"), {"reason": "database"}

    async def _run_handler(self, lease: Lease, context: JobContext) -> dict[str, Any]:
        """Return the handler's result. Raises JobInterrupted if the attempt was told to stop before there was one."""
        handler = asyncio.create_task(self._check_and_run(lease, context), name=f"handler {lease.key}")
        watch = asyncio.create_task(lease.interrupted.wait())
        try:
            await asyncio.wait({handler, watch}, return_when=asyncio.FIRST_COMPLETED)
            if lease.interruption is not None and not handler.done():
                await self._stop_handler(lease, handler)
            if lease.interruption is not None and not _has_result(handler):
                raise JobInterrupted(lease.interruption)
            if handler.cancelled():  # not from here: a library's cancellation, which would leave the job to nobody
                raise errors.InternalError("the handler cancelled itself")
            return await handler
        except Interrupted as error:
            raise JobInterrupted(lease.interruption or Interruption.SHUTDOWN) from error
        finally:
            watch.cancel()
            if not handler.done():
                handler.cancel()
                await asyncio.gather(handler, return_exceptions=True)

    async def _check_and_run(self, lease: Lease, context: JobContext) -> dict[str, Any]:
        """Check prompts and consent, then run the handler. The checks are here, so that no kind can omit them."""
        kind = self._services.kinds[lease.kind]
        await asyncio.gather(
            asyncio.to_thread(prompts.require, kind.texts(lease.job)),
            consent.require(self._services.database, lease.job),
        )
        try:
            return await kind.run(lease, context)
        except SystemExit as error:
            raise RuntimeError(f"the handler of {lease.kind} called sys.exit") from error  # no job ends the worker

    async def _stop_handler(self, lease: Lease, handler: asyncio.Task[dict[str, Any]]) -> None:
        shutdown = lease.interruption is Interruption.SHUTDOWN
        grace_s = SHUTDOWN_GRACE_S if shutdown else STOP_GRACE_S
        stopping = [self._services.gpu.interrupt(grace_s)] if lease.on_gpu else []
        if shutdown:
            # Requeued at once: the fence keeps this attempt from publishing, so other pods need not wait for our child.
            await asyncio.gather(self._release(lease), *stopping)
        else:
            await asyncio.gather(*stopping)
        handler.cancel()
        await asyncio.gather(handler, return_exceptions=True)

    async def _release(self, lease: Lease) -> str:
        if lease.release_state is None:
            lease.release_state = await lease.release("requeued: its pod is stopping")
        return lease.release_state

    async def _end_interrupted(self, lease: Lease, reason: Interruption) -> str:
        match reason:
            case Interruption.LEASE_LOST:
                message = "the job has ended, was requeued or belongs to another attempt; nothing is published"
                log.warning("lease.lost", message=message)
                return "lost"
            case Interruption.TIMEOUT:
                limit = lease.job.row["max_runtime"]
                return await lease.fail(errors.JobTimeout(f"the attempt ran longer than max_runtime, {limit}"))
            case Interruption.SHUTDOWN:
                return await self._release(lease)
            case Interruption.STOP_REQUESTED:
                # Not requeued: for a job whose stop was requested, release_job ends it (finish_stopped_job in SQL).
                return await lease.release("stopped")


def _has_result(handler: asyncio.Task[dict[str, Any]]) -> bool:
    """Return True if the handler returned; `complete_job` then decides whether its result may still be published."""
    return handler.done() and not handler.cancelled() and handler.exception() is None


def _fault(error: Exception) -> errors.WorkerError:
    """Return what the app's user may know of an error: its kind, never its text, which may quote a prompt."""
    if isinstance(error, psycopg.Error) and fault_of(error) is Fault.JOB:
        return errors.InvalidInput(f"the database does not take a value of this job: {type(error).__name__}")
    return errors.InternalError(f"{type(error).__name__} in the worker; its log says more")


def _log_finished(lease: Lease, traffic: Traffic, duration_s: float, **outcome: Any) -> None:
    """Log the one line at the end of every attempt."""
    log.info(
        "job.finished",
        **outcome,
        duration_s=round(duration_s, 3),
        queue_wait_s=_queue_wait_s(lease.job),
        gpu_s=round(lease.gpu_seconds, 3),
        bytes_in=traffic.bytes_in,
        bytes_out=traffic.bytes_out,
    )


def _queue_wait_s(job: StartedJob) -> float | None:
    """Return the seconds from when the job could have been started until it was; None for times outside Python's."""
    try:
        could = [datetime.fromisoformat(job.row[name]) for name in ("created_at", "run_after") if job.row[name]]
        return round((datetime.fromisoformat(job.row["started_at"]) - max(could)).total_seconds(), 3)
    except ValueError:  # infinite, BC, or of five digits
        return None

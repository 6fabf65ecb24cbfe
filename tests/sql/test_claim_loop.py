"""The claim loop of a pod on a real queue: what wakes it, how often it looks, and that no wake-up is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.background import STUCK_AFTER_S
from tests.sql.pod import GENERATION, PUBLISH, TRAINING, as_worker
from tests.sql.tables import AppTables
from worker.database.claim_queue import ClaimQueue
from worker.pod import looks
from worker.pod.background_tasks import cancel_tasks, start_tasks
from worker.queue import Worker
from worker.settings import Settings

Claim = tuple[str, UUID]
NEVER_S = 3600.0


class ClaimingPod:
    """The claim loop and the session connection of a worker. A claimed job is noted; `free` ends it."""

    def __init__(self, db: AppTables) -> None:
        self.worker = Worker(
            Settings(
                _env_file=None,
                database_url=as_worker(db.url),
                s3_endpoint_url="http://127.0.0.1:9",
                s3_region="nowhere",
                s3_access_key_id="none",
                s3_secret_access_key="none",
            )
        )
        self.begun: asyncio.Queue[Claim] = asyncio.Queue()
        self.free: list[Callable[[], None]] = []
        self.asked: list[str] = []
        """What the loop asked the database for, in order."""
        self.routes: list[list[str]] = []
        """Of each claim."""
        self.after_claim: Callable[[Claim | None], Awaitable[None]] | None = None
        self.worker._routes.slot_of = {GENERATION: "gpu", TRAINING: "gpu"}
        self.worker._runner.begin = self._begin  # type: ignore[method-assign]
        self.worker._queue = self._observed_queue()
        call_once = self.worker._database.call_once

        async def observed_call(function: Any, *arguments: object) -> Any:
            if function == "next_due_s":
                self.asked.append("due")
            return await call_once(function, *arguments)

        self.worker._database.call_once = observed_call  # type: ignore[method-assign]

    def _begin(self, kind: str, job_id: UUID, free_slot: Callable[[], None]) -> None:
        self.free.append(free_slot)
        self.begun.put_nowait((kind, job_id))

    def _observed_queue(self) -> ClaimQueue:
        pod = self

        class ObservedQueue(ClaimQueue):
            async def claim(self, routes: list[str]) -> Claim | None:
                claim = await super().claim(routes)
                pod.asked.append("claim")
                pod.routes.append(routes)
                if pod.after_claim is not None:
                    await pod.after_claim(claim)
                return claim

        return ObservedQueue(self.worker._database, self.worker.pod_id)

    async def until_asked(self, count: int) -> None:
        """Return once the loop has asked for this many things."""
        while len(self.asked) < count:  # noqa: ASYNC110  observed from within the loop
            await asyncio.sleep(0.01)

    async def until_it_polls(self, *slots: str) -> None:
        """Return once the loop has found nothing for these slots, however often it looked."""
        while not self.worker._looks.is_poll(slots or self.worker._free):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.worker._database, asyncio.timeout(STUCK_AFTER_S):
            tasks = start_tasks(session=self.worker._session.run(), claim=self.worker._claim_loop())
            try:
                yield
            finally:
                await cancel_tasks(tasks)


@pytest.fixture
def pod(db: AppTables) -> ClaimingPod:
    return ClaimingPod(db)


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock alone leads to no claim."""
    monkeypatch.setattr(looks, "AGAIN_AFTER_S", (NEVER_S,))
    monkeypatch.setattr(looks, "POLL_EVERY_S", NEVER_S)


@pytest.mark.usefixtures("only_woken")
async def test_a_notification_after_an_empty_claim_leads_to_a_claim_at_once(db: AppTables, pod: ClaimingPod) -> None:
    async with pod.running():
        await pod.until_asked(1)
        job = await asyncio.to_thread(db.ask)
        assert await pod.begun.get() == ("generation", job)


@pytest.mark.usefixtures("only_woken")
async def test_a_freed_slot_leads_to_a_claim_at_once(db: AppTables, pod: ClaimingPod) -> None:
    first, second = db.ask(), db.ask()
    async with pod.running():
        assert await pod.begun.get() == ("generation", first)
        assert pod.begun.empty()
        pod.free.pop()()
        assert await pod.begun.get() == ("generation", second)


@pytest.mark.usefixtures("only_woken")
async def test_a_freed_slot_is_not_missed_while_another_slot_is_claimed_for_in_vain(
    db: AppTables, pod: ClaimingPod
) -> None:
    pod.worker._routes.slot_of[PUBLISH] = "light"
    first, second = db.ask(), db.ask()

    async def free_during_the_next_claim(claim: Claim | None) -> None:
        if claim is None and pod.free:
            pod.free.pop()()

    pod.after_claim = free_during_the_next_claim
    async with pod.running():
        assert await pod.begun.get() == ("generation", first)
        assert await pod.begun.get() == ("generation", second)


@pytest.mark.usefixtures("only_woken")
async def test_a_job_that_is_queued_while_a_claim_returns_empty_is_not_missed(db: AppTables, pod: ClaimingPod) -> None:
    inserted: list[UUID] = []
    heard = asyncio.Event()
    on_queue = pod.worker._session.on_queue

    def on_queue_observed(route: str) -> None:
        on_queue(route)
        heard.set()

    pod.worker._session.on_queue = on_queue_observed

    async def insert_after_the_claim(claim: Claim | None) -> None:
        if claim is None and not inserted:
            heard.clear()
            inserted.append(await asyncio.to_thread(db.ask))
            await heard.wait()  # the wake-up arrives before the loop knows that its claim was empty

    pod.after_claim = insert_after_the_claim
    async with pod.running():
        assert await pod.begun.get() == ("generation", inserted[0])


@pytest.mark.usefixtures("only_woken")
async def test_only_the_slot_is_asked_for_that_can_run_what_was_queued(
    db: AppTables, pod: ClaimingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "AGAIN_AFTER_S", (0.0,))
    pod.worker._routes.slot_of[PUBLISH] = "light"
    async with pod.running():
        await pod.until_it_polls()
        before = len(pod.routes)
        await asyncio.to_thread(db.ask)
        await pod.begun.get()
        pod.free.pop()()
        await pod.until_it_polls()
    assert {route for routes in pod.routes[before:] for route in routes} == {GENERATION, TRAINING}


@pytest.mark.usefixtures("only_woken")
async def test_what_another_pod_must_run_wakes_nobody_else(db: AppTables, pod: ClaimingPod) -> None:
    heard: list[str] = []
    on_queue = pod.worker._session.on_queue

    def on_queue_observed(route: str) -> None:
        on_queue(route)
        heard.append(route)

    pod.worker._session.on_queue = on_queue_observed
    del pod.worker._routes.slot_of[GENERATION]
    async with pod.running():
        await pod.until_asked(1)
        await asyncio.to_thread(db.ask)
        while heard[-1:] != [GENERATION]:  # noqa: ASYNC110  observed from within the loop
            await asyncio.sleep(0.01)
        assert not pod.worker._wake.is_set()
        pod.worker._routes.slot_of[GENERATION] = "gpu"
        await asyncio.to_thread(db.ask)
        await pod.begun.get()


async def test_a_claim_is_repeated_when_another_claim_locked_the_job(
    db: AppTables, pod: ClaimingPod, other_session: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pgqueuer locks the next job of every requested route and keeps one: until it commits, others skip the rest."""
    monkeypatch.setattr(looks, "POLL_EVERY_S", NEVER_S)
    job = db.ask()
    other_session.execute("select from worker.pgqueuer for update")

    async def commit_once_it_waits(claim: Claim | None) -> None:
        if claim is None and pod.worker._session.listening:
            pod.worker._wake.clear()
            other_session.rollback()

    pod.after_claim = commit_once_it_waits
    async with pod.running():
        assert await pod.begun.get() == ("generation", job)


async def test_a_poll_asks_once_and_for_nothing_else(
    db: AppTables, pod: ClaimingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "POLL_EVERY_S", 0.05)
    async with pod.running():
        await pod.until_asked(20)
    assert pod.asked[-10:] == ["claim"] * 10
    assert pod.asked[:2] == ["claim", "due"]


@pytest.mark.usefixtures("only_woken")
async def test_a_deferred_job_is_claimed_when_it_is_due(
    db: AppTables, pod: ClaimingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "AGAIN_AFTER_S", (0.0,))
    async with pod.running():
        await pod.until_asked(1)
        later = db.one("select (now() + interval '300 ms')::text")
        job = await asyncio.to_thread(db.ask, run_after=later)
        assert await pod.begun.get() == ("generation", job)
        assert db.one("select run_after <= clock_timestamp() from public.generation_jobs where id = %s", job)


def queue_unheard(db: AppTables) -> UUID:
    """Insert a job of which no pod is notified."""
    db.run("alter table worker.pgqueuer disable trigger tg_pgqueuer_changed")
    job = db.ask()
    db.run("alter table worker.pgqueuer enable trigger tg_pgqueuer_changed")
    return job


async def test_a_poll_is_not_postponed_by_notifications_for_a_busy_slot(
    db: AppTables, pod: ClaimingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "AGAIN_AFTER_S", ())
    monkeypatch.setattr(looks, "POLL_EVERY_S", 0.3)
    pod.worker._routes.slot_of = {GENERATION: "light", TRAINING: "gpu"}
    db.ask_training()
    async with pod.running():
        assert (await pod.begun.get())[0] == "training"
        await pod.until_it_polls("light")
        job = queue_unheard(db)
        while pod.begun.empty():
            db.run("select pg_notify('likeness_queue', %s)", TRAINING)
            await asyncio.sleep(0.02)
        assert await pod.begun.get() == ("generation", job)


@pytest.mark.usefixtures("only_woken")
@pytest.mark.parametrize("later", [None, NEVER_S])
async def test_the_earliest_time_at_which_a_job_is_due_is_kept(
    db: AppTables, pod: ClaimingPod, later: float | None
) -> None:
    """A job that became due a moment ago is not in the next heartbeat's answer, and its wake-up is still to come."""
    async with pod.running():
        await pod.until_asked(1)
        pod.worker._wake_when_due(later)
        pod.worker._wake_when_due(0.05)
        pod.worker._wake_when_due(later)
        job = queue_unheard(db)
        assert await pod.begun.get() == ("generation", job)


async def test_a_pod_that_loses_its_session_polls_at_once(
    db: AppTables, pod: ClaimingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "POLL_EVERY_S", NEVER_S)
    async with pod.running():
        await pod.until_it_polls()
        pod.worker._session.url = "postgresql://postgres@127.0.0.1:1/nowhere"
        db.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'likeness session'")
        while pod.worker._session.listening:  # noqa: ASYNC110  observed from within the loop
            await asyncio.sleep(0.01)
        await pod.until_it_polls()
        job = await asyncio.to_thread(db.ask)
        assert await pod.begun.get() == ("generation", job)


@pytest.mark.usefixtures("only_woken")
async def test_rows_that_are_no_jobs_do_not_hide_the_job_behind_them(db: AppTables, pod: ClaimingPod) -> None:
    db.run(
        """insert into worker.pgqueuer (priority, status, entrypoint, dedupe_key, payload)
           select 0, 'queued', %s, 'training:' || gen_random_uuid(), '' from generate_series(1, 3)""",
        GENERATION,
    )
    job = db.ask()
    async with pod.running():
        assert await pod.begun.get() == ("generation", job)

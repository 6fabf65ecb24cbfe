"""Many pods on one queue: concurrent claims, peek and starved routes, deadlocks that are retried."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import stamina
from psycopg.types.json import Jsonb
from stamina.instrumentation import RetryDetails

from tests.sql.background import STUCK_AFTER_S, BackgroundCalls
from tests.sql.pod import GENERATION, ROUTES, TRAINING, Pod, as_worker
from tests.sql.tables import AppTables
from worker.database.claim_queue import ClaimQueue
from worker.database.pool import Database


@pytest.fixture
def retried() -> Iterator[list[str]]:
    """The SQLSTATE of each error after which a call was retried."""
    states: list[str] = []

    def note(details: RetryDetails) -> None:
        assert isinstance(details.caused_by, psycopg.Error)
        states.append(str(details.caused_by.sqlstate))

    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([note])
    yield states
    stamina.instrumentation.set_on_retry_hooks(before)


def two_routes(db: AppTables) -> tuple[UUID, UUID]:
    """A job on each of two routes."""
    subject = db.add_subject()
    db.add_photos(subject)
    return db.ask(subject_id=subject), db.request("training", subject_id=subject)


# -- claims


def test_a_claim_does_not_wait_for_another_pods_claim_but_takes_the_next(
    db: AppTables, pod: Pod, other_session: psycopg.Connection[Any]
) -> None:
    first, second = db.ask(), db.ask()
    other_session.execute("select from worker.pgqueuer where dedupe_key = %s for update", [f"generation:{first}"])
    assert pod.claim() == ("generation", second)
    assert pod.claim() is None
    other_session.rollback()
    assert pod.claim() == ("generation", first)


async def test_concurrent_claims_take_every_job_exactly_once(db: AppTables) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    jobs = {("generation", db.ask(subject_id=subject)) for _ in range(20)}
    jobs |= {("training", db.request("training", subject_id=subject)) for _ in range(20)}
    claimed: list[tuple[str, UUID]] = []

    async def claim_all(queue: ClaimQueue) -> None:
        while len(claimed) < len(jobs):  # a claim may return None although jobs wait: other pods have locked them
            job = await queue.claim(list(ROUTES))
            if job is not None:
                claimed.append(job)

    async with AsyncExitStack() as stack:
        pods = [await stack.enter_async_context(Database(as_worker(db.url), f"pod {index}")) for index in range(4)]
        async with asyncio.timeout(STUCK_AFTER_S):
            await asyncio.gather(*(claim_all(ClaimQueue(database, uuid4())) for database in pods))
    assert len(claimed) == len(jobs)
    assert set(claimed) == jobs
    assert db.one("select count(distinct queue_manager_id) from worker.pgqueuer where status = 'picked'") > 1


# -- peek and starved routes


def test_peek_returns_the_next_job_of_each_route_that_has_consent(db: AppTables, pod: Pod) -> None:
    with_consent, without_consent, on_another_route, deferred = (
        db.add_subject(),
        db.add_subject(),
        db.add_subject(),
        db.add_subject(),
    )
    job = db.ask(subject_id=with_consent, priority=1)
    db.ask(subject_id=without_consent)
    db.ask(subject_id=on_another_route, base="flux-dev")
    db.ask(subject_id=deferred, run_after="2999-01-01")
    db.let_consent_expire(without_consent)
    before = db.snapshot()
    assert [(item["kind"], item["id"]) for item in pod.call("peek", [GENERATION], 10)] == [("generation", str(job))]
    assert db.snapshot() == before


def test_a_route_is_starved_when_its_oldest_job_waits_and_none_is_started(db: AppTables, pod: Pod) -> None:
    db.ask()
    db.ask(base="flux-dev")
    routes = [*ROUTES, "generation/flux-dev"]
    assert pod.call("starved_routes", routes, "60 s") == []
    db.run("update worker.pgqueuer set execute_after = execute_after - interval '61 seconds'")
    assert sorted(pod.call("starved_routes", routes, "60 s")) == ["generation/flux-dev", GENERATION]
    db.ask()
    pod.claim(GENERATION)
    assert pod.call("starved_routes", routes, "60 s") == ["generation/flux-dev"]
    assert pod.call("starved_routes", [TRAINING], "60 s") == []


# -- deadlocks


@pytest.mark.parametrize("end", ["publish", "revoke the first", "revoke the last"])
def test_a_deadlocked_publication_is_retried_with_the_right_outcome(
    db: AppTables,
    pod: Pod,
    background: BackgroundCalls,
    other_session: psycopg.Connection[Any],
    retried: list[str],
    end: str,
) -> None:
    """A job has three subjects. Publication locks them in order; another script locks the last one, then the first."""
    people = sorted(db.add_subject(name=name) for name in ("Ada", "Ben", "Cem"))
    job = db.request("generation", owner_id=db.owner, prompt="x", model_ids=[db.add_lora(person) for person in people])
    attempt = pod.run("generation", job)
    result = attempt.staged_result()
    lock = "select from public.subjects where id = %s for update"
    with psycopg.connect(db.url) as holder:
        # The script is never the victim: only the session that waits last checks for a deadlock.
        other_session.execute("set local deadlock_timeout = '1h'")
        other_session.execute(lock, [people[2]])
        holder.execute(lock, [people[1]])
        completion = background.start(_complete, f"{as_worker(db.url)}%20-c%20deadlock_timeout%3D50ms", attempt, result)
        background.wait_until_blocking(holder)
        script = background.start_blocked(other_session, other_session.execute, lock, [people[0]])
        holder.rollback()
        script.result(STUCK_AFTER_S)
    if end.startswith("revoke"):
        other_session.execute("select public.revoke_consent(%s)", [people[0 if end == "revoke the first" else 2]])
    other_session.commit()
    answer = completion.result(STUCK_AFTER_S)
    assert set(retried) == {"40P01"}
    if end == "publish":
        assert answer == "ok"
        assert db.status("generation", job) == ("completed", None)
        assert set(db.staged(job).values()) == {"published"}
        assert db.events(job) == ["started", "completed"]
    else:
        assert answer == "consent_denied"
        assert db.status("generation", job) == ("failed", "consent_denied")
        assert set(db.staged(job).values()) == {"deleting"}


def _complete(url: str, attempt: Any, result: dict[str, Any]) -> str:
    """Complete the job as a pod does: over its pool, with retries."""

    async def call() -> str:
        async with Database(url, "pod") as database:
            return str(
                await database.call("complete_job", attempt.kind, attempt.id, attempt.number, Jsonb(result), 1.0)
            )

    return asyncio.run(call())


def test_a_permanent_error_is_not_retried(db: AppTables, retried: list[str]) -> None:
    async def call() -> None:
        async with Database(as_worker(db.url), "pod") as database:
            await database.call("start_job", "no such kind", uuid4(), uuid4())

    with pytest.raises(psycopg.errors.InvalidParameterValue, match="unknown kind of job"):
        asyncio.run(call())
    assert retried == []

"""What a heartbeat brings and takes back: progress, whose files may be kept, when the next deferred job is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.pod import GENERATION, Attempt, Pod, as_worker
from tests.sql.tables import AppTables
from worker.database.pool import Database
from worker.jobs.lease import Lease
from worker.jobs.started_job import StartedJob

REPORT = {"progress": 0.25, "metrics": {"step": 7}}


def running(db: AppTables, pod: Pod, **columns: Any) -> Attempt:
    return pod.run("generation", db.ask(**columns))


def beat(pod: Pod, *leases: dict[str, Any], held: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = pod.call("pod_heartbeat", pod.id, list(leases), held or [])
    return answer


def progress(db: AppTables, attempt: Attempt) -> tuple[float, Any]:
    job = db.job("generation", attempt.id)
    return job["progress"], job["metrics"]


# -- progress


def test_a_heartbeat_records_progress_and_leaves_the_phase(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    attempt.report(0.1, "drawing")
    beat(pod, attempt.as_lease() | {"report": REPORT})
    assert progress(db, attempt) == (0.25, {"step": 7})
    assert db.job("generation", attempt.id)["phase"] == "drawing"


def test_progress_that_has_not_changed_is_not_written_again(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    report = attempt.as_lease() | {"report": {"progress": 0.1, "metrics": {"step": 7}}}
    beat(pod, report)
    (before,) = db.run("select xmin::text from public.generation_jobs where id = %s", attempt.id)
    beat(pod, report)
    assert db.run("select xmin::text from public.generation_jobs where id = %s", attempt.id) == [before]


def test_no_progress_that_a_pod_sends_ends_the_heartbeat(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    for sent, kept in ((1e-320, 0), (2, 1), (-1e300, 0), (None, 0.5), ("50%", 0.5), (True, 0.5)):
        attempt.report(0.5)
        answer = beat(pod, attempt.as_lease() | {"report": {"progress": sent, "metrics": None}})
        assert [lease["state"] for lease in answer["leases"]] == ["ok"]
        assert progress(db, attempt) == (kept, None), sent


@pytest.mark.parametrize("metric", ["a\0b", "\ud800", object()], ids=["NUL", "a surrogate", "no JSON"])
def test_metrics_that_cannot_be_stored_fail_the_job_and_not_the_heartbeat(
    db: AppTables, pod: Pod, metric: object
) -> None:
    attempt = running(db, pod)

    async def report_and_beat() -> None:
        async with Database(as_worker(db.url), "pod") as database:
            lease = Lease(database, StartedJob.read(attempt.payload))
            with pytest.raises((TypeError, ValueError)):
                await lease.report(0.9, "drawing", {"step": metric})
            await lease.report(float("nan"), "drawing", {"loss": float("inf"), "text": r"\u0000"})
            await database.call_once("pod_heartbeat", pod.id, Jsonb([lease.heartbeat_payload()]), Jsonb([]))

    asyncio.run(report_and_beat())
    assert progress(db, attempt) == (0, {"loss": None, "text": r"\u0000"})


@pytest.mark.parametrize("end", [Attempt.release, Attempt.publish, Attempt.fail])
def test_progress_of_an_attempt_that_has_ended_changes_nothing(
    db: AppTables, pod: Pod, end: Callable[[Attempt], str]
) -> None:
    attempt = running(db, pod)
    end(attempt)
    before = db.snapshot()
    answer = beat(pod, attempt.as_lease() | {"report": REPORT})
    assert [lease["state"] for lease in answer["leases"]] == ["lost"]
    after = db.snapshot()
    assert {name: rows for name, rows in after.items() if "pods" not in name} == {
        name: rows for name, rows in before.items() if "pods" not in name
    }


def test_a_locked_job_does_not_delay_a_heartbeat_and_is_reported_next_time(
    db: AppTables, pod: Pod, other_session: psycopg.Connection[Any]
) -> None:
    """As beside a revocation whose transaction stays open: a pod whose heartbeat waits would be considered dead."""
    subject = db.add_subject()
    db.add_lora(subject)
    locked, free = running(db, pod, subject_id=subject), running(db, pod)
    other_session.execute("select public.revoke_consent(%s)", [subject])
    pod.database.execute("set lock_timeout = '3s'")  # it fails instead of waiting for ever
    answer = beat(pod, *(attempt.as_lease() | {"report": REPORT} for attempt in (locked, free)))
    assert [lease["state"] for lease in answer["leases"]] == ["ok", "ok"]
    assert (progress(db, locked), progress(db, free)) == ((0, None), (0.25, {"step": 7}))
    other_session.commit()
    answer = beat(pod, *(attempt.as_lease() | {"report": REPORT} for attempt in (locked, free)))
    assert [lease["state"] for lease in answer["leases"]] == ["cancel", "ok"]
    assert progress(db, locked) == (0.25, {"step": 7})


# -- whose files may be kept


def held(subject: UUID, *purposes: str) -> list[dict[str, Any]]:
    return [{"subject_id": str(subject), "purpose": purpose} for purpose in purposes]


BOTH = ("training", "generation")


@pytest.mark.parametrize(
    ("loss", "ended"),
    [
        ("select public.revoke_consent(%s)", BOTH),
        ("select public.reject_consent(%s)", BOTH),
        ("select public.grant_consent(%s, '{training}')", ("generation",)),
        ("select public.grant_consent(%s, '{generation}')", ("training",)),
        ("select public.grant_consent(%s, '{training,generation}')", ()),
        ("delete from auth.users where id = (select owner_id from public.subjects where id = %s)", BOTH),
    ],
)
def test_a_heartbeat_says_whose_files_may_not_be_kept(
    db: AppTables, pod: Pod, loss: str, ended: tuple[str, ...]
) -> None:
    subject, other = db.add_subject(owner=db.add_user(uuid4())), db.add_subject()
    named = held(subject, *BOTH) + held(other, *BOTH)
    assert beat(pod, held=named)["ended"] == []
    db.run(loss, subject)
    assert beat(pod, held=named)["ended"] == held(subject, *ended)
    assert beat(pod, held=named)["ended"] == held(subject, *ended), "until the pod no longer names them"
    assert beat(pod, held=held(other, *BOTH))["ended"] == []


def test_files_of_expired_erased_and_unknown_people_may_not_be_kept(db: AppTables, pod: Pod) -> None:
    expired, erased, unknown = db.add_subject(), db.add_subject(), uuid4()
    db.let_consent_expire(expired)
    with db.without_triggers():
        db.run("update public.subjects set erased_at = now() where id = %s", erased)
    for subject in (expired, erased, unknown):
        assert beat(pod, held=held(subject, "generation"))["ended"] == held(subject, "generation")


def test_a_revocation_that_stayed_open_for_long_is_told_once_it_commits(
    db: AppTables, pod: Pod, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    other_session.execute("select public.revoke_consent(%s)", [subject])
    assert beat(pod, held=held(subject, "generation"))["ended"] == []
    other_session.execute("alter table worker.consent_events disable trigger all")
    other_session.execute("update worker.consent_events set at = at - interval '5 minutes'")
    other_session.execute("alter table worker.consent_events enable trigger all")
    other_session.commit()
    assert beat(pod, held=held(subject, "generation"))["ended"] == held(subject, "generation")


# -- what else the answer brings


@pytest.mark.parametrize(
    ("run_after", "known"),
    [("in 10 minutes", True), ("in 2 days", False), ("infinity", False), ("-infinity", False), (None, False)],
)
def test_the_answer_says_when_the_next_deferred_job_is_due(
    db: AppTables, pod: Pod, run_after: str | None, known: bool
) -> None:
    db.ask()
    if run_after is not None:
        job = db.ask()
        when = run_after.removeprefix("in ")
        db.run(
            f"update worker.pgqueuer set execute_after = {'now() + ' if 'in ' in run_after else ''}%s"
            f"::{'interval' if 'in ' in run_after else 'timestamptz'} where dedupe_key = %s",
            when,
            f"generation:{job}",
        )
    due_s = beat(pod)["next_due_s"]
    assert due_s == pytest.approx(600, abs=60) if known else due_s is None
    pod.register("publish_lora")
    assert beat(pod)["next_due_s"] is None, "only of routes that this pod offers"


@pytest.mark.parametrize(
    "change",
    [
        "update worker.base_models set min_vram_gib = min_vram_gib + 1 where slug = 'flux-dev'",
        "delete from worker.base_models where slug = 'sd15'",
        "update worker.job_kinds set paused = true where kind = 'training'",
    ],
)
def test_the_digest_changes_with_kinds_and_bases_alone(db: AppTables, pod: Pod, change: str) -> None:
    before = beat(pod)["routes_digest"]
    db.ask()
    pod.register(GENERATION)
    assert beat(pod)["routes_digest"] == before
    db.run(change)
    assert beat(pod)["routes_digest"] != before

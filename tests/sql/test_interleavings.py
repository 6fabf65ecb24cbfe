"""Concurrent transactions, step by step on real connections: in either order the outcome is consistent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.background import STUCK_AFTER_S, BackgroundCalls
from tests.sql.pod import Attempt, Pod
from tests.sql.tables import AppTables
from tests.waiting import wait_until

StartPod = Callable[..., Pod]
REVOKE = "select public.revoke_consent(%s)"


def running(db: AppTables, pod: Pod, subject: UUID | None = None, **columns: Any) -> tuple[Attempt, dict[str, Any]]:
    """A started attempt and its staged result."""
    attempt = pod.run("generation", db.ask(subject_id=subject or db.add_subject(), **columns))
    return attempt, attempt.staged_result()


def outcome(db: AppTables, job: UUID) -> tuple[str, str | None, list[str], set[str]]:
    """Status, error code, the last event, and the states of everything that was staged."""
    return (*db.status("generation", job), db.events(job)[-1:], set(db.staged(job).values()))


PUBLISHED = ("completed", None, ["completed"], {"published"})
REFUSED = ("failed", "consent_denied", ["failed"], {"deleting"})
REFUSED_BEFORE_THE_START = ("failed", "consent_denied", ["failed"], set())
CANCELLED = ("cancelled", None, ["cancelled"], {"deleting"})
REQUEUED = ("queued", "worker_lost", ["requeued"], {"deleting"})


def assert_never_published(db: AppTables, job: UUID) -> None:
    assert db.job("generation", job)["result"] is None
    assert "published" not in db.staged(job).values()
    assert db.queue_row("generation", job) is None


# -- revoke x insert


def test_a_revocation_waits_for_an_open_insert_and_then_fails_its_job(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    row = other_session.execute(
        "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x') returning id, status", [subject]
    ).fetchone()
    assert row is not None
    assert row[1] == "queued"
    with psycopg.connect(db.url, autocommit=True) as revoker:
        revocation = background.start_blocked(revoker, revoker.execute, REVOKE, [subject])
        other_session.commit()
        revocation.result(STUCK_AFTER_S)
    assert outcome(db, row[0]) == REFUSED_BEFORE_THE_START
    assert [entry["job_id"] for entry in db.ledger(subject, "refusal")] == [row[0]]


def test_a_job_inserted_during_an_open_revocation_is_refused(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    """It fails at once, and so a later grant cannot start it."""
    subject = db.add_subject()
    other_session.execute(REVOKE, [subject])
    insert = "insert into public.generation_jobs (subject_id, prompt, model_ids) values (%s, 'x', '{}') returning id"
    with psycopg.connect(db.url, autocommit=True) as app:
        inserted = background.start_blocked(app, app.execute, insert, [subject])
        other_session.commit()
        row = inserted.result(STUCK_AFTER_S).fetchone()
    assert row is not None
    assert db.status("generation", row[0]) == ("failed", "consent_denied")
    assert [entry["job_id"] for entry in db.ledger(subject, "refusal")] == [row[0]]
    assert pod.claim() is None
    assert_never_published(db, row[0])


# -- revoke x start


def test_a_start_waits_for_an_open_revocation_and_obeys_it(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    for committed in (False, True):
        job = db.ask(subject_id=subject)
        claim = pod.claim()
        assert claim == ("generation", job)
        other_session.execute(REVOKE, [subject])
        start = background.start_blocked(pod.database, pod.start, *claim)
        other_session.commit() if committed else other_session.rollback()
        attempt = start.result(STUCK_AFTER_S)
        if committed:
            assert attempt is None
            assert outcome(db, job) == REFUSED_BEFORE_THE_START
            assert db.job("generation", job)["attempt"] == 0
        else:
            assert attempt is not None
            assert attempt.publish() == "ok"


def test_a_revocation_waits_for_an_open_start_and_stops_it(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    job = db.ask(subject_id=subject)
    claim = pod.claim()
    assert claim is not None
    with pod.database.transaction():
        attempt = pod.start(*claim)
        assert attempt is not None
        revocation = background.start_blocked(other_session, other_session.execute, REVOKE, [subject])
    revocation.result(STUCK_AFTER_S)
    other_session.commit()
    assert attempt.report() == "cancel"
    assert attempt.publish() == "consent_denied"
    assert outcome(db, job) == REFUSED


def test_a_job_that_a_revocation_did_not_see_does_not_start(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    """It had failed, so the revocation had nothing to stop; then it was retried and claimed."""
    subject = db.add_subject()
    attempt, _ = running(db, pod, subject, max_failures=1)
    attempt.fail()
    other_session.execute(REVOKE, [subject])
    db.run("select public.retry_job('generation', %s)", attempt.id)
    claim = pod.claim()
    assert claim is not None
    start = background.start_blocked(pod.database, pod.start, *claim)
    other_session.commit()
    assert start.result(STUCK_AFTER_S) is None
    assert outcome(db, attempt.id) == REFUSED
    assert db.queue_row("generation", attempt.id) is None
    assert db.job("generation", attempt.id)["attempt"] == 1


# -- revoke x complete


@pytest.mark.parametrize("who", ["the subject", "the person of another LoRA"])
def test_a_publication_waits_for_an_open_revocation_and_obeys_it(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any], who: str
) -> None:
    ada, ben = db.add_subject(), db.add_subject()
    attempt, result = running(db, pod, ada, model_ids=[db.add_lora(ada), db.add_lora(ben)])
    assert set(db.staged(attempt.id).values()) == {"staged"}
    person = ada if who == "the subject" else ben
    other_session.execute(REVOKE, [person])
    completion = background.start_blocked(pod.database, attempt.complete, result)
    other_session.commit()
    assert completion.result(STUCK_AFTER_S) == "consent_denied"
    assert outcome(db, attempt.id) == REFUSED
    assert_never_published(db, attempt.id)
    assert [entry["job_id"] for entry in db.ledger(person, "refusal")] == [attempt.id]


def test_a_publication_obeys_a_consent_change_that_stopped_no_job(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    """The new expiry passes before the grant commits, so the grant requests no stop."""
    subject = db.add_subject()
    attempt, result = running(db, pod, subject)
    soon = "select public.grant_consent(%s, expires_at => clock_timestamp() + interval '300 milliseconds')"
    other_session.execute(soon, [subject])
    completion = background.start_blocked(pod.database, attempt.complete, result)
    wait_until(
        lambda: (
            other_session.execute(
                "select consent_expires_at < clock_timestamp() from public.subjects where id = %s", [subject]
            ).fetchone()
            == (True,)
        ),
        "consent to expire",
    )
    other_session.commit()
    assert completion.result(STUCK_AFTER_S) == "consent_denied"
    assert outcome(db, attempt.id) == REFUSED
    assert_never_published(db, attempt.id)
    assert db.job("generation", attempt.id)["error"] == "the person's consent has expired"


def test_a_revocation_waits_for_an_open_publication(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    attempt, result = running(db, pod, subject)
    with pod.database.transaction():
        assert attempt.complete(result) == "ok"
        revocation = background.start_blocked(other_session, other_session.execute, REVOKE, [subject])
        assert set(db.staged(attempt.id).values()) == {"staged"}, "nothing is visible before the commit"
    revocation.result(STUCK_AFTER_S)
    other_session.commit()
    assert outcome(db, attempt.id) == PUBLISHED
    assert attempt.complete(result) == "ok"


# -- cancel x complete


def test_a_publication_waits_for_an_open_cancellation_and_obeys_it(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    for committed in (True, False):
        attempt, result = running(db, pod)
        other_session.execute("select public.cancel_job('generation', %s)", [attempt.id])
        completion = background.start_blocked(pod.database, attempt.complete, result)
        other_session.commit() if committed else other_session.rollback()
        assert completion.result(STUCK_AFTER_S) == ("cancelled" if committed else "ok")
        assert outcome(db, attempt.id) == (CANCELLED if committed else PUBLISHED)


def test_a_cancellation_waits_for_an_open_publication_and_comes_too_late(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    attempt, result = running(db, pod)
    with pod.database.transaction():
        assert attempt.complete(result) == "ok"
        cancel = background.start_blocked(
            other_session, other_session.execute, "select public.cancel_job('generation', %s)", [attempt.id]
        )
    assert cancel.result(STUCK_AFTER_S).fetchone() == ("completed",)
    other_session.commit()
    assert outcome(db, attempt.id) == PUBLISHED


# -- the reaper


def silence(db: AppTables, pod: Pod) -> None:
    """Let the pod's heartbeats have stopped 31 seconds ago, so that it is considered dead."""
    db.run("update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds' where id = %s", pod.id)


def test_the_reaper_leaves_a_job_that_is_being_published(db: AppTables, pod: Pod) -> None:
    attempt, result = running(db, pod)
    with pod.database.transaction():
        assert attempt.complete(result) == "ok"
        silence(db, pod)
        assert db.tick() == 0, "the reaper does not wait for the locked row"
        assert db.status("generation", attempt.id) == ("running", None)
    db.tick()
    assert outcome(db, attempt.id) == PUBLISHED
    assert db.job("generation", attempt.id)["failures"] == 0


def test_a_publication_waits_for_the_reaper_and_is_lost(
    db: AppTables, start_pod: StartPod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    attempt, result = running(db, first_pod)
    silence(db, first_pod)
    other_session.execute("select worker.tick()")
    completion = background.start_blocked(first_pod.database, attempt.complete, result)
    other_session.commit()
    assert completion.result(STUCK_AFTER_S) == "lost"
    assert outcome(db, attempt.id) == REQUEUED
    again = second_pod.run("generation", attempt.id)
    assert (again.number, attempt.complete(result), again.publish()) == (2, "lost", "ok")
    assert db.staged(attempt.id)[again.key("0.png")] == "published"
    assert db.claim_deletable() == {attempt.key("0.png"), attempt.key("0.raw.png")}


def test_two_reapers_count_one_failure(db: AppTables, pod: Pod, other_session: psycopg.Connection[Any]) -> None:
    attempt, _ = running(db, pod)
    silence(db, pod)
    assert other_session.execute("select worker.reap()").fetchone() == (1,)
    assert db.one("select worker.reap()") == 0, "it does not wait for the first"
    other_session.commit()
    assert db.one("select worker.reap()") == 0
    assert outcome(db, attempt.id) == REQUEUED
    assert db.job("generation", attempt.id)["failures"] == 1
    assert db.events(attempt.id).count("requeued") == 1


def test_a_job_that_the_reaper_could_not_lock_counts_as_a_failure_next_time(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    attempts = [running(db, pod)[0], running(db, pod)[0]]
    first, second = sorted(attempts, key=lambda attempt: attempt.id)
    silence(db, pod)
    with psycopg.connect(db.url, autocommit=True) as reaper, psycopg.connect(db.url) as holder:
        other_session.execute("select from public.generation_jobs where id = %s for update", [first.id])
        holder.execute("select from worker.pgqueuer where dedupe_key = %s for update", [f"generation:{second.id}"])
        reaping = background.start_blocked(reaper, reaper.execute, "select worker.reap()")
        other_session.rollback()  # unlocked by the time that the reaper requeues claims
        holder.rollback()
        reaping.result(STUCK_AFTER_S)
    db.tick()
    for attempt in attempts:
        assert outcome(db, attempt.id) == REQUEUED
        assert db.job("generation", attempt.id)["failures"] == 1


def test_heartbeat_and_deregistration_do_not_deadlock(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    attempt, _ = running(db, pod)
    with psycopg.connect(db.url, autocommit=True) as pod_pool:
        other_session.execute("select from worker.pgqueuer for update")
        deregistration = background.start_blocked(pod.database, pod.call, "deregister_pod", pod.id)
        lease = f'[{{"kind": "generation", "id": "{attempt.id}", "attempt": 1}}]'
        heartbeat = background.start_blocked(
            pod_pool, pod_pool.execute, "select worker.heartbeat(%s, %s)", [pod.id, lease]
        )
        other_session.rollback()
        deregistration.result(STUCK_AFTER_S)
        answer = heartbeat.result(STUCK_AFTER_S).fetchone()
    assert answer is not None
    assert (answer[0]["known"], answer[0]["leases"][0]["state"]) == (False, "lost")
    assert db.job("generation", attempt.id)["failures"] == 0


# -- complete x complete


def test_the_same_publication_sent_twice_at_once_happens_once(
    db: AppTables, pod: Pod, background: BackgroundCalls
) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    attempt = pod.run("training", db.request("training", subject_id=subject))
    result = attempt.staged_result()
    with psycopg.connect(db.url, autocommit=True) as again:
        call = "select worker.complete_job('training', %s, 1, %s::jsonb, 1)"
        with pod.database.transaction():
            assert attempt.complete(result) == "ok"
            repeated = background.start_blocked(
                again, again.execute, call, [attempt.id, psycopg.types.json.Jsonb(result)]
            )
        assert repeated.result(STUCK_AFTER_S).fetchone() == ("ok",)
    assert db.one("select count(*) from public.subjects_models") == 1
    assert db.one("select count(*) from worker.internal_jobs") == 1
    assert db.job("training", attempt.id)["gpu_seconds"] == 1
    assert db.events(attempt.id) == ["started", "completed"]


def test_two_trainings_of_one_person_published_at_once_get_two_versions(
    db: AppTables, start_pod: StartPod, background: BackgroundCalls
) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    subject = db.add_subject()
    db.add_photos(subject)
    first = first_pod.run("training", db.request("training", subject_id=subject))
    second = second_pod.run("training", db.request("training", subject_id=subject))
    first_result, second_result = first.staged_result(), second.staged_result()
    with second_pod.database.transaction():
        second_pod.database.execute("select now()")  # the older transaction publishes later
        with first_pod.database.transaction():
            assert first.complete(first_result) == "ok"
            later = background.start_blocked(second_pod.database, second.complete, second_result)
        assert later.result(STUCK_AFTER_S) == "ok"
    by_time = db.run("select job_id, version from public.subjects_models order by created_at")
    assert [(row["job_id"], row["version"]) for row in by_time] == [(first.id, 1), (second.id, 2)]


# -- insert x insert


def test_two_requests_at_once_cannot_both_take_the_last_place(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    db.run("update worker.config set open_jobs_per_owner = 1")
    subject = db.add_subject()
    insert = "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x')"
    other_session.execute(insert, [subject])
    with psycopg.connect(db.url, autocommit=True) as second:
        late = background.start_blocked(second, second.execute, insert, [subject])
        other_session.commit()
        with pytest.raises(psycopg.Error, match="too many open jobs: at most 1"):
            late.result(STUCK_AFTER_S)
    assert db.one("select count(*) from public.generation_jobs") == 1

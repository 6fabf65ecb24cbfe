"""Two things at once, step by step on real connections: whichever comes first, the rows say one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.aside import NO_TIME, Aside
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
REFUSED_BEFORE_IT_BEGAN = ("failed", "consent_denied", ["failed"], set())
CANCELLED = ("cancelled", None, ["cancelled"], {"deleting"})
GIVEN_BACK = ("queued", "worker_lost", ["requeued"], {"deleting"})


def assert_never_published(db: AppTables, job: UUID) -> None:
    assert db.job("generation", job)["result"] is None
    assert "published" not in db.staged(job).values()
    assert db.queue_row("generation", job) is None


# -- revoke x insert


def test_a_revocation_waits_for_an_open_insert_and_then_fails_its_job(
    db: AppTables, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    row = other.execute(
        "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x') returning id, status", [subject]
    ).fetchone()
    assert row is not None
    assert row[1] == "queued"
    revocation = aside.run_blocked(
        db_connection := psycopg.connect(db.url, autocommit=True), db_connection.execute, REVOKE, [subject]
    )
    other.commit()
    revocation.result(NO_TIME)
    db_connection.close()
    assert outcome(db, row[0]) == REFUSED_BEFORE_IT_BEGAN
    assert [entry["job_id"] for entry in db.ledger(subject, "refusal")] == [row[0]]


def test_a_job_inserted_beside_an_open_revocation_never_starts(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    other.execute(REVOKE, [subject])
    with psycopg.connect(db.url, autocommit=True) as app:
        insert = (
            "insert into public.generation_jobs (subject_id, prompt, model_ids) values (%s, 'x', '{}') returning id"
        )
        inserted = aside.run_blocked(app, app.execute, insert, [subject])
        other.commit()
        row = inserted.result(NO_TIME).fetchone()
    assert row is not None
    claim = pod.claim()
    if claim is not None:
        assert pod.start(*claim) is None
    assert outcome(db, row[0])[:2] == ("failed", "consent_denied")
    assert_never_published(db, row[0])


# -- revoke x start


def test_a_start_waits_for_an_open_revocation_and_obeys_it(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    for committed in (False, True):
        job = db.ask(subject_id=subject)
        claim = pod.claim()
        assert claim == ("generation", job)
        other.execute(REVOKE, [subject])
        start = aside.run_blocked(pod.database, pod.start, *claim)
        other.commit() if committed else other.rollback()
        attempt = start.result(NO_TIME)
        if committed:
            assert attempt is None
            assert outcome(db, job) == REFUSED_BEFORE_IT_BEGAN
            assert db.job("generation", job)["attempt"] == 0
        else:
            assert attempt is not None
            assert attempt.publish() == "ok"


def test_a_revocation_waits_for_an_open_start_and_stops_it(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    job = db.ask(subject_id=subject)
    claim = pod.claim()
    assert claim is not None
    with pod.database.transaction():
        attempt = pod.start(*claim)
        assert attempt is not None
        revocation = aside.run_blocked(other, other.execute, REVOKE, [subject])
    revocation.result(NO_TIME)
    other.commit()
    assert attempt.report() == "cancel"
    assert attempt.publish() == "consent_denied"
    assert outcome(db, job) == REFUSED


def test_a_job_that_a_revocation_did_not_see_does_not_start(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    """It had failed, so the revocation had nothing to stop; then it was put back, and claimed."""
    subject = db.add_subject()
    attempt, _ = running(db, pod, subject, max_failures=1)
    attempt.fail()
    other.execute(REVOKE, [subject])
    db.run("select public.retry_job('generation', %s)", attempt.id)
    claim = pod.claim()
    assert claim is not None
    start = aside.run_blocked(pod.database, pod.start, *claim)
    other.commit()
    assert start.result(NO_TIME) is None
    assert outcome(db, attempt.id) == REFUSED
    assert db.queue_row("generation", attempt.id) is None
    assert db.job("generation", attempt.id)["attempt"] == 1


# -- revoke x complete


@pytest.mark.parametrize("who", ["the subject", "the person of another LoRA"])
def test_a_publication_waits_for_an_open_revocation_and_obeys_it(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any], who: str
) -> None:
    ada, ben = db.add_subject(), db.add_subject()
    attempt, result = running(db, pod, ada, model_ids=[db.add_lora(ada), db.add_lora(ben)])
    assert set(db.staged(attempt.id).values()) == {"staged"}
    person = ada if who == "the subject" else ben
    other.execute(REVOKE, [person])
    completion = aside.run_blocked(pod.database, attempt.complete, result)
    other.commit()
    assert completion.result(NO_TIME) == "consent_denied"
    assert outcome(db, attempt.id) == REFUSED
    assert_never_published(db, attempt.id)
    assert [entry["job_id"] for entry in db.ledger(person, "refusal")] == [attempt.id]


def test_a_publication_obeys_a_change_of_consent_that_stopped_nothing(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    """Consent is cut to a moment, in a transaction that stays open until it has passed: no job is told to stop."""
    subject = db.add_subject()
    attempt, result = running(db, pod, subject)
    soon = "select public.grant_consent(%s, expires_at => clock_timestamp() + interval '300 milliseconds')"
    other.execute(soon, [subject])
    completion = aside.run_blocked(pod.database, attempt.complete, result)
    wait_until(
        lambda: (
            other.execute(
                "select consent_expires_at < clock_timestamp() from public.subjects where id = %s", [subject]
            ).fetchone()
            == (True,)
        ),
        "consent to expire",
    )
    other.commit()
    assert completion.result(NO_TIME) == "consent_denied"
    assert outcome(db, attempt.id) == REFUSED
    assert_never_published(db, attempt.id)
    assert db.job("generation", attempt.id)["error"] == "the person's consent has expired"


def test_a_revocation_waits_for_an_open_publication(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    attempt, result = running(db, pod, subject)
    with pod.database.transaction():
        assert attempt.complete(result) == "ok"
        revocation = aside.run_blocked(other, other.execute, REVOKE, [subject])
        assert set(db.staged(attempt.id).values()) == {"staged"}, "nothing shows before it is committed"
    revocation.result(NO_TIME)
    other.commit()
    assert outcome(db, attempt.id) == PUBLISHED
    assert attempt.complete(result) == "ok"


# -- cancel x complete


def test_a_publication_waits_for_an_open_cancellation_and_obeys_it(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    for committed in (True, False):
        attempt, result = running(db, pod)
        other.execute("select public.cancel_job('generation', %s)", [attempt.id])
        completion = aside.run_blocked(pod.database, attempt.complete, result)
        other.commit() if committed else other.rollback()
        assert completion.result(NO_TIME) == ("cancelled" if committed else "ok")
        assert outcome(db, attempt.id) == (CANCELLED if committed else PUBLISHED)


def test_a_cancellation_waits_for_an_open_publication_and_comes_too_late(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    attempt, result = running(db, pod)
    with pod.database.transaction():
        assert attempt.complete(result) == "ok"
        cancel = aside.run_blocked(other, other.execute, "select public.cancel_job('generation', %s)", [attempt.id])
    assert cancel.result(NO_TIME).fetchone() == ("completed",)
    other.commit()
    assert outcome(db, attempt.id) == PUBLISHED


# -- the reaper


def dead(db: AppTables, pod: Pod) -> None:
    db.run("update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds' where id = %s", pod.id)


def test_the_reaper_leaves_a_job_that_is_being_published(db: AppTables, pod: Pod) -> None:
    attempt, result = running(db, pod)
    with pod.database.transaction():
        assert attempt.complete(result) == "ok"
        dead(db, pod)
        assert db.tick() == 0, "it does not wait"
        assert db.status("generation", attempt.id) == ("running", None)
    db.tick()
    assert outcome(db, attempt.id) == PUBLISHED
    assert db.job("generation", attempt.id)["failures"] == 0


def test_a_publication_waits_for_the_reaper_and_is_lost(
    db: AppTables, start_pod: StartPod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    one, two = start_pod(), start_pod()
    attempt, result = running(db, one)
    dead(db, one)
    other.execute("select worker.tick()")
    completion = aside.run_blocked(one.database, attempt.complete, result)
    other.commit()
    assert completion.result(NO_TIME) == "lost"
    assert outcome(db, attempt.id) == GIVEN_BACK
    again = two.run("generation", attempt.id)
    assert (again.number, attempt.complete(result), again.publish()) == (2, "lost", "ok")
    assert db.staged(attempt.id)[again.key("0.png")] == "published"
    assert db.garbage() == {attempt.key("0.png"), attempt.key("0.raw.png")}


def test_two_reapers_charge_one_failure(db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]) -> None:
    attempt, _ = running(db, pod)
    dead(db, pod)
    with psycopg.connect(db.url, autocommit=True) as second:
        other.execute("select worker.reap()")
        reaping = aside.run_blocked(second, second.execute, "select worker.reap()")
        other.commit()
        assert reaping.result(NO_TIME).fetchone() == (0,)
    assert outcome(db, attempt.id) == GIVEN_BACK
    assert db.job("generation", attempt.id)["failures"] == 1
    assert db.events(attempt.id).count("requeued") == 1


def test_a_job_the_reaper_could_not_lock_is_charged_next_time_not_given_back_for_nothing(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    (busy, _), (held_up, _) = sorted((running(db, pod) for _ in range(2)), key=lambda made: made[0].id)
    dead(db, pod)
    with psycopg.connect(db.url, autocommit=True) as reaper, psycopg.connect(db.url) as holder:
        other.execute("select from public.generation_jobs where id = %s for update", [busy.id])
        holder.execute("select from worker.pgqueuer where dedupe_key = %s for update", [f"generation:{held_up.id}"])
        reaping = aside.run_blocked(reaper, reaper.execute, "select worker.reap()")
        other.rollback()  # free again by the time that claims are given back
        holder.rollback()
        reaping.result(NO_TIME)
    db.tick()
    for attempt in (busy, held_up):
        assert outcome(db, attempt.id) == GIVEN_BACK
        assert db.job("generation", attempt.id)["failures"] == 1


def test_a_heartbeat_beside_a_goodbye_is_no_deadlock(
    db: AppTables, pod: Pod, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    attempt, _ = running(db, pod)
    with psycopg.connect(db.url, autocommit=True) as beating:
        other.execute("select from worker.pgqueuer for update")
        goodbye = aside.run_blocked(pod.database, pod.call, "leave_pod", pod.id)
        lease = f'[{{"kind": "generation", "id": "{attempt.id}", "attempt": 1}}]'
        beat = aside.run_blocked(beating, beating.execute, "select worker.heartbeat(%s, %s)", [pod.id, lease])
        other.rollback()
        goodbye.result(NO_TIME)
        answer = beat.result(NO_TIME).fetchone()
    assert answer is not None
    assert (answer[0]["known"], answer[0]["leases"][0]["state"]) == (False, "lost")
    assert db.job("generation", attempt.id)["failures"] == 0


# -- complete x complete


def test_the_same_publication_twice_at_once_is_one(db: AppTables, pod: Pod, aside: Aside) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    attempt = pod.run("training", db.request("training", subject_id=subject))
    result = attempt.staged_result()
    with psycopg.connect(db.url, autocommit=True) as again:
        call = "select worker.complete_job('training', %s, 1, %s::jsonb, 1)"
        with pod.database.transaction():
            assert attempt.complete(result) == "ok"
            repeated = aside.run_blocked(again, again.execute, call, [attempt.id, psycopg.types.json.Jsonb(result)])
        assert repeated.result(NO_TIME).fetchone() == ("ok",)
    assert db.one("select count(*) from public.subjects_models") == 1
    assert db.one("select count(*) from worker.internal_jobs") == 1
    assert db.job("training", attempt.id)["gpu_seconds"] == 1
    assert db.events(attempt.id) == ["started", "completed"]


def test_two_trainings_of_one_person_published_at_once_are_two_versions(
    db: AppTables, start_pod: StartPod, aside: Aside
) -> None:
    one, two = start_pod(), start_pod()
    subject = db.add_subject()
    db.add_photos(subject)
    first, second = (pod.run("training", db.request("training", subject_id=subject)) for pod in (one, two))
    first_result, second_result = first.staged_result(), second.staged_result()
    with two.database.transaction():
        two.database.execute("select now()")  # its transaction is the older one, its publication the later
        with one.database.transaction():
            assert first.complete(first_result) == "ok"
            later = aside.run_blocked(two.database, second.complete, second_result)
        assert later.result(NO_TIME) == "ok"
    by_time = db.run("select job_id, version from public.subjects_models order by created_at")
    assert [(row["job_id"], row["version"]) for row in by_time] == [(first.id, 1), (second.id, 2)]


# -- insert x insert


def test_two_requests_at_once_cannot_both_take_the_last_place(
    db: AppTables, aside: Aside, other: psycopg.Connection[Any]
) -> None:
    db.run("update worker.config set open_jobs_per_owner = 1")
    subject = db.add_subject()
    insert = "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x')"
    other.execute(insert, [subject])
    with psycopg.connect(db.url, autocommit=True) as second:
        late = aside.run_blocked(second, second.execute, insert, [subject])
        other.commit()
        with pytest.raises(psycopg.Error, match="too many open jobs: at most 1"):
            late.result(NO_TIME)
    assert db.one("select count(*) from public.generation_jobs") == 1

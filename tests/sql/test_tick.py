"""The two halves of the tick: taking over waits for nothing, and housekeeping is done by one pod at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.sql.background import STUCK_AFTER_S, BackgroundCalls
from tests.sql.pod import Attempt, Pod, as_worker
from tests.sql.tables import AppTables
from tests.waiting import wait_until
from worker.database.schema import migrate

StartPod = Callable[..., Pod]


def running(db: AppTables, pod: Pod) -> Attempt:
    return pod.run("generation", db.ask())


def silence(db: AppTables, pod: Pod) -> None:
    """Let the pod's heartbeats have stopped 31 seconds ago, so that it is considered dead."""
    db.run("update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds' where id = %s", pod.id)


def is_due(db: AppTables) -> bool:
    """Whether a tick asks for the housekeeping."""
    return bool(db.one("select worker.take_over()")["housekeeping"])


# -- taking over


def test_housekeeping_that_waits_for_a_lock_does_not_delay_taking_over(
    db: AppTables, start_pod: StartPod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    dead, ticker, expired = start_pod(), start_pod(), db.add_subject()
    attempt, queued = running(db, dead), db.ask(subject_id=expired)
    db.let_consent_expire(expired)
    silence(db, dead)
    other_session.execute("select from public.generation_jobs where id = %s for update", [queued])
    housekeeping = background.start_blocked(ticker.database, ticker.call, "run_housekeeping")
    assert db.one("select worker.take_over()") is not None
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")
    other_session.rollback()
    assert housekeeping.result(STUCK_AFTER_S) is True
    assert db.status("generation", queued) == ("failed", "consent_denied")


def test_only_one_pod_at_a_time_takes_over_and_one_does_the_housekeeping(
    db: AppTables, other_session: psycopg.Connection[Any]
) -> None:
    db.run("set lock_timeout = '2s'")
    other_session.execute("select worker.take_over()")
    assert db.one("select worker.take_over()") is None
    assert db.one("select worker.run_housekeeping()") is True
    other_session.rollback()
    other_session.execute("select worker.run_housekeeping()")
    assert db.one("select worker.run_housekeeping()") is False
    assert db.one("select worker.take_over()") is not None


@pytest.mark.parametrize("holder", ["a heartbeat", "another pod's row"])
def test_taking_over_does_not_wait_for_the_rows_of_pods(
    db: AppTables, start_pod: StartPod, other_session: psycopg.Connection[Any], holder: str
) -> None:
    dead, held = start_pod(), start_pod(has_lock=True)
    attempt, kept = running(db, dead), running(db, held)
    for pod in (dead, held):
        silence(db, pod)
    held.lose_session()
    statement = (
        "select worker.heartbeat(%s, '[]')"
        if holder == "a heartbeat"
        else "select from worker.pods where id = %s for update"
    )
    other_session.execute(statement, [held.id])
    db.run("set lock_timeout = '2s'")
    db.one("select worker.take_over()")
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")
    assert kept.report() == "ok", "a pod that calls at this moment is alive"


def test_the_gap_that_means_an_outage_is_counted_from_the_end_of_the_last_tick(
    db: AppTables, pod: Pod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    """Otherwise a tick that took longer than the gap would start every grace period again."""
    attempt = running(db, pod)
    silence(db, pod)
    other_session.execute("select from worker.pgqueuer for update")
    with psycopg.connect(db.url, autocommit=True) as ticker:
        tick = background.start_blocked(ticker, ticker.execute, "select worker.take_over()")
        meanwhile = db.one("select clock_timestamp()")
        other_session.rollback()
        tick.result(STUCK_AFTER_S)
    assert db.one("select last_tick > %s from worker.clock", meanwhile) is True
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")


# -- when the housekeeping is due


def test_housekeeping_is_due_every_ten_seconds_and_when_a_consent_has_expired(db: AppTables) -> None:
    assert is_due(db)
    db.one("select worker.run_housekeeping()")
    assert not is_due(db)
    subject = db.add_subject()
    db.let_consent_expire(subject)
    assert is_due(db)
    db.one("select worker.run_housekeeping()")
    assert not is_due(db)
    db.run("update worker.housekeeping set next_run = clock_timestamp()")
    assert is_due(db)


def test_one_call_does_both_for_those_who_schedule_it(db: AppTables, pod: Pod) -> None:
    attempt, expired = running(db, pod), db.add_subject()
    db.let_consent_expire(expired)
    silence(db, pod)
    assert db.tick() == 0
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")
    assert db.one("select consent_status from public.subjects where id = %s", expired) == "revoked"
    assert not is_due(db)


# -- locks that others can name


def test_a_stranger_with_an_advisory_lock_stops_no_tick_and_no_migration(
    db: AppTables, other_session: psycopg.Connection[Any]
) -> None:
    for name in ("likeness tick", "likeness migrate"):
        other_session.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
    assert db.tick() == 0
    assert migrate.migrate(f"{db.url}?options=-c%20lock_timeout%3D2s") == []


def test_one_migration_runs_at_a_time(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    other_session.execute(migrate.LOCK.encode())
    with psycopg.connect(db.url, autocommit=True) as second:
        waiting = background.start_blocked(second, second.execute, migrate.LOCK.encode())
        other_session.rollback()
        waiting.result(STUCK_AFTER_S)


@pytest.fixture
def stranger(db: AppTables) -> Any:
    """A connection of a login that is no pod."""
    db.run("create role stranger login")
    with psycopg.connect(db.url.replace("postgres@", "stranger@"), autocommit=True) as connection:
        yield connection
    db.run("drop role stranger")


@pytest.mark.parametrize("how", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_a_stranger_who_holds_a_pods_lock_does_not_keep_it_alive(
    db: AppTables, start_pod: StartPod, stranger: psycopg.Connection[Any], how: str
) -> None:
    pod = start_pod(has_lock=True)
    assert pod.session is not None
    is_free = "select worker.lock_is_free(%s)"
    assert db.one(is_free, pod.id) is False
    pod.session.close()
    wait_until(lambda: db.one(is_free, pod.id), "the pod's lock to be free")
    stranger.execute(f"select {how}(%s)".encode(), [db.one("select worker.pod_lock_key(%s)", pod.id)])
    assert db.one(is_free, pod.id) is True


def test_one_copy_of_a_persons_lora_is_made_at_a_time_and_no_revocation_waits(
    db: AppTables, start_pod: StartPod, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    pods, subject = [start_pod(), start_pod()], db.add_subject()
    db.add_photos(subject)
    for _ in pods:
        assert pods[0].run("training", db.request("training", subject_id=subject)).publish() == "ok"
    copies = [pod.start(*pod.claim("publish_lora")) for pod in pods]  # type: ignore[misc]
    lock = "select worker.lock_lora_copy(%s, %s, %s)"
    first, second = ([lock, [copy.kind, copy.id, copy.number]] for copy in copies if copy is not None)
    other_session.execute(
        f"set local role likeness_worker; select pg_advisory_lock(worker.subject_lock_key('{subject}'))"
    )
    other_session.execute(*first)  # type: ignore[arg-type]
    with psycopg.connect(as_worker(db.url), autocommit=True) as waiting:
        blocked = background.start_blocked(waiting, waiting.execute, *second)
        db.run("set lock_timeout = '2s'")
        db.run("select public.revoke_consent(%s)", subject)
        other_session.commit()
        blocked.result(STUCK_AFTER_S)

"""The database's clock was ahead and was set back: no time that the schema wrote itself keeps anything waiting."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sql.pod import GENERATION, ROUTES, Attempt, Pod
from tests.sql.tables import AppTables

StartPod = Callable[..., Pod]

YEAR = "interval '1 year'"


def running(db: AppTables, pod: Pod) -> Attempt:
    return pod.run("generation", db.ask())


def pass_30_seconds(db: AppTables) -> None:
    """Let every time that silence is counted from move 31 seconds into the past."""
    past = "interval '31 seconds'"
    db.run(f"update worker.clock set grace_from = grace_from - {past}")
    db.run(
        f"update worker.pods set last_heartbeat = last_heartbeat - {past}, lock_free_since = lock_free_since - {past}"
    )


@pytest.mark.parametrize(
    "ahead",
    [
        f"update worker.pods set last_heartbeat = now() + {YEAR}",
        f"update worker.clock set grace_from = now() + {YEAR}",
        f"update worker.clock set last_tick = now() + {YEAR}",
        f"update worker.clock set last_tick = now() + {YEAR}, grace_from = now() + {YEAR}",
    ],
)
def test_a_dead_pod_is_found_30_seconds_later(db: AppTables, pod: Pod, ahead: str) -> None:
    attempt = running(db, pod)
    db.run(ahead)
    db.tick()
    assert attempt.report() == "ok", "that the clock was set back does not prove that the pod is dead"
    pass_30_seconds(db)
    db.tick()
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")


def test_a_lock_that_was_seen_free_in_the_future_is_looked_at_again(db: AppTables, start_pod: StartPod) -> None:
    pod = start_pod(has_lock=True)
    attempt = running(db, pod)
    pod.lose_session()
    db.run(f"update worker.pods set lock_free_since = now() + {YEAR}")
    db.tick()
    db.run("update worker.pods set lock_free_since = lock_free_since - interval '2 seconds'")
    db.tick()
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")


def test_dead_pods_do_not_remain_those_that_tick(db: AppTables, start_pod: StartPod) -> None:
    for _ in range(2):
        start_pod()
    db.run(f"update worker.pods set last_heartbeat = now() + {YEAR}")
    alive = start_pod()
    assert alive.heartbeat()["tick"] is True
    db.run(f"update worker.pods set registered_at = now() + {YEAR}")
    db.tick()
    assert db.one("select max(greatest(registered_at, last_heartbeat)) <= clock_timestamp() from worker.pods") is True


def test_a_claim_whose_reply_was_lost_is_requeued(db: AppTables, start_pod: StartPod) -> None:
    first, second = start_pod(), start_pod()
    job = db.ask()
    assert first.claim() == ("generation", job)
    db.run(f"update worker.pgqueuer set heartbeat = now() + {YEAR}")
    db.tick()
    db.run("update worker.pgqueuer set heartbeat = heartbeat - interval '31 seconds'")
    first.heartbeat()
    assert second.claim() == ("generation", job)


def test_a_running_attempt_reaches_its_timeout(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    with db.without_triggers():
        db.run(f"update public.generation_jobs set started_at = now() + {YEAR}")
    db.tick()
    with db.without_triggers():
        db.run("update public.generation_jobs set started_at = started_at - max_runtime - interval '1 second'")
    assert attempt.report() == "timeout"


def test_objects_of_ended_attempts_are_offered_for_deletion(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    attempt.stage("0.png")
    attempt.fail()
    db.run(f"update worker.staged_objects set offer_after = now() + {YEAR}")
    db.tick()
    assert db.claim_deletable() == {attempt.key("0.png")}


def test_an_object_that_waits_for_its_last_deletion_goes_on_waiting(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    attempt.stage("0.png")
    attempt.fail()
    db.run("update worker.staged_objects set offer_after = now() + worker.timing('last_deletion')")
    db.tick()
    assert db.claim_deletable() == set()


# What requeue, retry_job and an INSERT write while the clock is a year ahead.
AHEAD = {
    "requeued": f"""update public.generation_jobs set run_after = now() + {YEAR};
        update worker.job_events set at = now() + {YEAR};
        update worker.pgqueuer set execute_after = now() + {YEAR}, updated = now() + {YEAR}""",
    "inserted": f"""update public.generation_jobs set run_after = null, created_at = now() + {YEAR};
        update worker.pgqueuer set execute_after = now() + {YEAR}, updated = now() + {YEAR}""",
    "the queue's row alone": f"update worker.pgqueuer set execute_after = now() + {YEAR}",
}


@pytest.mark.parametrize("written", AHEAD)
def test_a_queued_job_starts(db: AppTables, pod: Pod, written: str) -> None:
    attempt = running(db, pod)
    attempt.release("stopped")
    with db.without_triggers():
        for statement in AHEAD[written].split(";"):
            db.run(statement)
    assert pod.claim() is None
    db.tick()
    assert pod.claim() == ("generation", attempt.id)
    assert pod.start("generation", attempt.id) is not None


def test_a_job_that_the_app_deferred_goes_on_waiting(db: AppTables, pod: Pod) -> None:
    again, deferred = running(db, pod), db.ask()
    again.release("stopped")
    for job_id in (deferred, again.id):
        db.run(f"update public.generation_jobs set run_after = now() + {YEAR} where id = %s", job_id)
    db.tick()
    assert pod.claim() is None
    # It was also inserted while the clock was ahead: the time that the app named is still its own.
    db.run(
        f"update worker.pgqueuer set updated = now() + {YEAR}, created = now() + {YEAR} where dedupe_key = %s",
        f"generation:{deferred}",
    )
    db.tick()
    assert pod.claim() is None


def test_a_job_without_a_queue_row_gets_one(db: AppTables, pod: Pod) -> None:
    job = db.ask()
    with db.without_triggers():
        db.run("delete from worker.pgqueuer")
        db.run(f"update public.generation_jobs set created_at = now() + {YEAR}")
    db.tick()
    assert pod.claim() == ("generation", job)


def test_a_route_is_starved_although_a_claim_of_the_future_is_in_the_log(db: AppTables, pod: Pod) -> None:
    running(db, pod)
    db.ask()
    db.run("update worker.pgqueuer set execute_after = now() - interval '1 hour'")
    db.run(f"update worker.pgqueuer_log set created = now() + {YEAR}")
    assert pod.call("starved_routes", list(ROUTES), "1 minute") == [GENERATION]


def test_housekeeping_is_due(db: AppTables) -> None:
    db.tick()
    db.run(f"update worker.housekeeping set next_run = now() + {YEAR}")
    assert db.one("select worker.take_over()")["housekeeping"] is True


@pytest.mark.parametrize("column", ["looked_at", "renewed_at", "unsettled_since"])
def test_the_markers_are_looked_at_and_renewed_again(db: AppTables, column: str) -> None:
    db.run(f"update worker.installation set {column} = now() + {YEAR}")
    assert db.one("select worker.claim_look(null)")["wait_s"] <= 300, "at least every five minutes"
    db.tick()
    assert db.one("select worker.claim_look(null)")["wait_s"] <= 75
    assert db.one("select worker.begin_renewal()") is None, "this may be a fresh copy"
    db.run("update worker.installation set unsettled_since = unsettled_since - interval '450 seconds'")
    renewal = db.one("select worker.begin_renewal()")
    db.run("select worker.finish_renewal(%s)", renewal["nonce"])
    db.run("update worker.installation set unsettled_since = unsettled_since - interval '150 seconds'")
    assert db.one("select worker.is_settled()")


def test_refusals_of_the_future_lock_no_user_out(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 1")
    stranger = db.add_subject(consent=False)
    for _ in range(5):
        db.ask(subject_id=stranger)
        db.request("generation", owner_id=db.owner, prompt="nude", model_ids=[])
    with db.without_triggers():
        db.run(f"update worker.consent_events set at = at + {YEAR}")
        db.run(f"update public.generation_jobs set created_at = created_at + {YEAR}")
    assert db.job("generation", db.ask())["status"] == "queued"

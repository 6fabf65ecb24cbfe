"""Live, dead, returning and deregistered pods: heartbeats, the reaper and the tick. Tests move time and never wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.pod import GENERATION, PUBLISH, ROUTES, TRAINING, Attempt, Pod, as_worker
from tests.sql.tables import AppTables
from tests.tiny_models import TINY_BASE

StartPod = Callable[..., Pod]


def running(db: AppTables, pod: Pod, **columns: Any) -> Attempt:
    attempt = pod.run("generation", db.ask(**columns))
    attempt.staged_result()
    return attempt


def is_registered(db: AppTables, pod: Pod) -> bool:
    return bool(db.run("select 1 from worker.pods where id = %s", pod.id))


def silent_for(db: AppTables, pod: Pod, seconds: float) -> None:
    """Move the pod's last heartbeat this far into the past."""
    db.run(
        "update worker.pods set last_heartbeat = clock_timestamp() - %s * interval '1 second' where id = %s",
        seconds,
        pod.id,
    )


def lock_free_for(db: AppTables, pod: Pod, seconds: float) -> None:
    """Move the moment at which the pod's lock was seen free this far into the past."""
    db.run(
        "update worker.pods set lock_free_since = clock_timestamp() - %s * interval '1 second' "
        "where id = %s and lock_free_since is not null",
        seconds,
        pod.id,
    )


def unnamed_for(db: AppTables, seconds: float) -> None:
    """Let this much more time have passed since a heartbeat named the claims on the queue."""
    db.run("update worker.pgqueuer set heartbeat = heartbeat - %s * interval '1 second'", seconds)


# -- registration and heartbeats


def test_registering_again_updates_the_routes_and_keeps_registered_at(db: AppTables, pod: Pod) -> None:
    (before,) = db.run("select * from worker.pods")
    silent_for(db, pod, 25)
    pod.register(TRAINING)
    (after,) = db.run("select * from worker.pods")
    assert (before["routes"], after["routes"]) == (list(ROUTES), [TRAINING])
    assert after["registered_at"] == before["registered_at"]
    assert after["last_heartbeat"] > before["last_heartbeat"]


def test_a_heartbeat_returns_the_state_of_every_lease_and_claim(db: AppTables, pod: Pod) -> None:
    fine, stopped, lost = running(db, pod), running(db, pod), running(db, pod)
    db.run("select public.cancel_job('generation', %s)", stopped.id)
    lost.release()
    claimed = pod.claim()
    assert claimed == ("generation", lost.id)
    never_claimed = ("generation", db.ask())
    beat = pod.heartbeat(fine, stopped, lost, claimed, never_claimed)
    assert [lease["state"] for lease in beat["leases"]] == ["ok", "cancel", "lost", "ok", "lost"]
    assert [UUID(lease["id"]) for lease in beat["leases"]] == [fine.id, stopped.id, lost.id, lost.id, never_claimed[1]]
    assert beat["known"] is True


def test_an_unknown_pod_is_told_so_and_can_register_again(db: AppTables, pod: Pod) -> None:
    db.run("delete from worker.pods")
    assert pod.heartbeat()["known"] is False
    assert not is_registered(db, pod), "a heartbeat alone does not register"
    pod.register()
    assert pod.heartbeat()["known"] is True


@pytest.mark.parametrize("started", [False, True], ids=["claimed", "running"])
def test_jobs_not_named_for_30_seconds_are_requeued_without_counting_a_failure(
    db: AppTables, start_pod: StartPod, started: bool
) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    job = db.ask(max_failures=1)
    claim = first_pod.claim()
    assert claim == ("generation", job)
    attempt = first_pod.start(*claim) if started else None
    unnamed_for(db, 20)
    first_pod.heartbeat()
    assert second_pod.claim() is None, "the reply to the claim may still arrive"
    unnamed_for(db, 11)
    first_pod.heartbeat()
    assert db.job("generation", job)["failures"] == 0
    assert db.job("generation", job)["phase"] == "requeued: its pod did not know of it"
    fresh = second_pod.run("generation", job)
    if attempt is not None:
        assert attempt.report() == "lost"
    assert fresh.publish() == "ok"


def test_jobs_named_in_heartbeats_stay_with_their_pod(db: AppTables, start_pod: StartPod) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    attempt = running(db, first_pod)
    db.ask()
    claim = first_pod.claim()
    assert claim is not None
    unnamed_for(db, 3600)
    for _ in range(2):
        assert [lease["state"] for lease in first_pod.heartbeat(attempt, claim)["leases"]] == ["ok", "ok"]
    assert second_pod.claim() is None
    assert first_pod.start(*claim) is not None
    assert db.one("select min(heartbeat) > now() - interval '10 seconds' from worker.pgqueuer") is True


# -- the reaper


def test_a_pod_with_a_released_lock_is_dead_after_the_grace_period(db: AppTables, start_pod: StartPod) -> None:
    pod, other = start_pod(has_lock=True), start_pod()
    attempt, unstarted = running(db, pod), db.ask()
    assert pod.claim() == ("generation", unstarted)
    pod.lose_session()
    db.tick()
    assert is_registered(db, pod)
    assert db.status("generation", attempt.id) == ("running", None), "the lock was only now seen free"
    lock_free_for(db, pod, 0)
    db.tick()
    assert db.status("generation", attempt.id) == ("running", None), "within the grace period"
    lock_free_for(db, pod, 1.6)
    db.tick()

    assert not is_registered(db, pod)
    row = db.job("generation", attempt.id)
    assert (row["status"], row["failures"], row["error_code"]) == ("queued", 1, "worker_lost")
    assert set(db.staged(attempt.id).values()) == {"deleting"}
    requeued = db.job("generation", unstarted)
    assert (requeued["status"], requeued["failures"]) == ("queued", 0)
    assert {other.claim(), other.claim()} == {("generation", attempt.id), ("generation", unstarted)}, (
        "both without a delay"
    )
    assert (attempt.report(), attempt.publish(), pod.heartbeat()["known"]) == ("lost", "lost", False)


@pytest.mark.parametrize("sign_of_life", ["heartbeat", "register"])
def test_a_heartbeat_or_registration_within_the_grace_period_keeps_a_pod_alive(
    db: AppTables, start_pod: StartPod, sign_of_life: str
) -> None:
    pod = start_pod(has_lock=True)
    attempt = running(db, pod)
    pod.lose_session()
    db.tick()
    pod.heartbeat(attempt) if sign_of_life == "heartbeat" else pod.register()
    lock_free_for(db, pod, 60)
    db.tick()
    assert attempt.report() == "ok"
    pod.take_lock()
    pod.heartbeat(attempt)
    for _ in range(2):
        db.tick()
        lock_free_for(db, pod, 60)
    assert attempt.publish() == "ok"


def test_a_pod_can_reconnect_beside_its_own_stale_connection(db: AppTables, start_pod: StartPod) -> None:
    pod = start_pod(has_lock=True)
    stale_session = pod.session
    assert stale_session is not None
    pod.take_lock()
    stale_session.close()
    for _ in range(2):
        db.tick()
        lock_free_for(db, pod, 60)
    assert is_registered(db, pod)


@pytest.mark.parametrize("has_lock", [False, True], ids=["without a lock", "with its lock held"])
def test_a_silent_pod_is_dead_after_30_seconds(db: AppTables, start_pod: StartPod, has_lock: bool) -> None:
    pod = start_pod(has_lock=has_lock)
    attempt = running(db, pod)
    silent_for(db, pod, 20)
    db.tick()
    assert attempt.report() == "ok"
    silent_for(db, pod, 31)
    db.tick()
    assert attempt.report() == "lost"
    assert db.job("generation", attempt.id)["failures"] == 1


def test_each_lost_pod_counts_as_a_failure_until_max_failures(db: AppTables, start_pod: StartPod) -> None:
    job = db.ask(max_failures=3)
    for failures, status in ((1, "queued"), (2, "queued"), (3, "failed")):
        pod = start_pod()
        attempt = pod.run("generation", job)
        assert attempt.number == failures
        attempt.report(0.5, "drawing", {"seconds": 2.5})
        silent_for(db, pod, 31)
        db.tick()
        row = db.job("generation", job)
        assert (row["status"], row["failures"], row["gpu_seconds"]) == (status, failures, 2.5 * failures)
        if failures == 2:
            assert start_pod().claim() is None, "only the first lost pod causes no delay"
        db.run("update worker.pgqueuer set execute_after = now() - interval '1 second'")
    assert db.status("generation", job) == ("failed", "worker_lost")


@pytest.mark.parametrize("seconds", ["soon", [1], None])
def test_malformed_metrics_do_not_stop_the_reaper(db: AppTables, pod: Pod, seconds: object) -> None:
    attempt = running(db, pod)
    attempt.report(0.5, "drawing", {"seconds": seconds})
    silent_for(db, pod, 31)
    db.tick()
    assert db.status("generation", attempt.id) == ("queued", "worker_lost")


def test_a_dead_pods_job_ends_as_its_requested_stop_says(db: AppTables, start_pod: StartPod) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    cancelled, revoked = running(db, first_pod), running(db, second_pod)
    db.run("select public.cancel_job('generation', %s)", cancelled.id)
    db.run("select public.revoke_consent(%s)", revoked.payload["subject"]["id"])
    for pod in (first_pod, second_pod):
        silent_for(db, pod, 31)
    db.tick()
    assert db.status("generation", cancelled.id) == ("cancelled", None)
    assert db.status("generation", revoked.id) == ("failed", "consent_denied")


def test_every_grace_period_restarts_after_an_outage(db: AppTables, start_pod: StartPod) -> None:
    locked, plain = start_pod(has_lock=True), start_pod()
    attempts = [running(db, locked), running(db, plain)]
    locked.lose_session()
    db.tick()
    # The database was unreachable for ten minutes: no heartbeats, no ticks.
    for pod in (locked, plain):
        silent_for(db, pod, 600)
    lock_free_for(db, locked, 600)
    db.run("update worker.clock set last_tick = clock_timestamp() - interval '10 minutes'")
    db.tick()
    assert [attempt.report() for attempt in attempts] == ["ok", "ok"]
    db.run("update worker.clock set grace_from = clock_timestamp() - interval '20 seconds'")
    db.tick()
    assert plain.heartbeat(attempts[1])["known"] is True
    # One pod came back, the other did not.
    db.run("update worker.clock set grace_from = clock_timestamp() - interval '31 seconds'")
    db.tick()
    assert [attempt.report() for attempt in attempts] == ["lost", "ok"]


def test_deregistration_requeues_everything_without_counting_a_failure(db: AppTables, start_pod: StartPod) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    attempt, cancelled, unstarted = running(db, first_pod), running(db, first_pod), db.ask()
    assert first_pod.claim() == ("generation", unstarted)
    db.run("select public.cancel_job('generation', %s)", cancelled.id)
    first_pod.call("deregister_pod", first_pod.id)
    assert not is_registered(db, first_pod)
    for job in (attempt.id, unstarted):
        assert (db.job("generation", job)["status"], db.job("generation", job)["failures"]) == ("queued", 0)
    assert db.status("generation", cancelled.id) == ("cancelled", None)
    assert {second_pod.claim(), second_pod.claim()} == {("generation", attempt.id), ("generation", unstarted)}


# -- the tick


def test_the_two_longest_running_pods_tick(db: AppTables, start_pod: StartPod) -> None:
    pods = [start_pod(has_lock=True), start_pod(), start_pod(), start_pod()]

    def ticking() -> list[bool]:
        return [bool(db.one("select worker.is_ticker(%s)", pod.id)) for pod in pods]

    assert ticking() == [True, True, False, False]
    assert [pod.heartbeat()["tick"] for pod in pods] == ticking()
    silent_for(db, pods[1], 21)
    assert ticking() == [True, False, True, False]
    pods[0].lose_session()
    db.tick()
    assert ticking() == [False, False, True, True]
    assert pods[1].heartbeat()["tick"] is True


def test_a_concurrent_second_tick_does_nothing(db: AppTables, pod: Pod) -> None:
    with psycopg.connect(as_worker(db.url)) as first:
        assert first.execute("select worker.tick()").fetchone() == (0,)
        pod.database.execute("set lock_timeout = '2s'")
        assert pod.call("tick") is None
    assert pod.call("tick") == 0


FLUX_DEV_NEEDS = "flux-dev needs 10.75 GiB of free GPU memory to train, 7.5 to generate"


def stranded(db: AppTables, job: UUID) -> str | None:
    """Why a job is stranded: in its phase, and the same in the view as its owner and pods see it."""
    db.tick()
    phase = db.job("generation", job)["phase"]
    rows = db.run("select kind, route, since <= now() as since, why from worker.stranded_jobs where id = %s", job)
    if not rows:
        assert phase == "waiting"
        return None
    (row,) = rows
    assert phase == f"waiting: no live pod can take this: {row['why']}"
    route = f"generation/{db.job('generation', job)['base']}"
    assert (row["kind"], row["route"], row["since"]) == ("generation", route, True)
    return str(row["why"])


def test_a_stranded_job_says_why_until_a_pod_can_run_it(db: AppTables, start_pod: StartPod) -> None:
    tiny, large = db.ask(), db.ask(base="flux-dev")
    assert stranded(db, tiny) == stranded(db, large) == "no pod is running"
    pod = start_pod(routes=(TRAINING,))
    assert stranded(db, tiny) == f"the pods that have {TINY_BASE} do not offer {GENERATION}: their logs say why"
    pod.register(PUBLISH, vram_gib=None, models=("another",))
    assert stranded(db, tiny) == f"{TINY_BASE} not found on a live pod or in the bucket: worker models push {TINY_BASE}"
    assert stranded(db, large) == f"{FLUX_DEV_NEEDS}; no live pod has a GPU that is ready"
    pod.register(GENERATION, vram_gib=4.44)
    assert stranded(db, tiny) is None
    assert stranded(db, large) == f"{FLUX_DEV_NEEDS}; the largest pod has 4.4"
    pod.register(PUBLISH, vram_gib=79.1, models=("another",))
    assert stranded(db, large) == "flux-dev not found on a live pod or in the bucket: worker models push flux-dev"
    pod.register("generation/flux-dev", vram_gib=79.1, models=("flux-dev",))
    assert stranded(db, large) is None
    # The only pod with the route deregisters while it holds the job.
    pod.run("generation", large)
    pod.call("deregister_pod", pod.id)
    assert stranded(db, large) == "no pod is running"


def test_a_silent_pod_does_not_count_as_live_even_without_a_tick(db: AppTables, pod: Pod) -> None:
    job = db.ask()
    stranded = "select why from worker.stranded_jobs where id = %s"
    depth = "select pods from worker.queue_depth where route = %s"
    silent_for(db, pod, 29)
    assert (db.run(stranded, job), db.one(depth, GENERATION)) == ([], 1)
    silent_for(db, pod, 31)
    assert (db.one(stranded, job), db.one(depth, GENERATION)) == ("no pod is running", 0)


def test_stranded_jobs_are_updated_in_batches(db: AppTables) -> None:
    """A tick that updates all of them would lock them all, and exceed its pod's statement_timeout."""
    db.run("update worker.config set open_jobs_per_owner = 10000")
    subject = db.add_subject()
    db.run(
        """insert into public.generation_jobs (subject_id, prompt, model_ids)
           select %s, 'x', '{}' from generate_series(1, 600)""",
        subject,
    )
    updated = "select count(*) from public.generation_jobs where phase like 'waiting: no live pod%%'"
    db.tick()
    assert db.one(updated) == 100
    assert db.one("select worker.take_over() ->> 'housekeeping'") == "true", "the rest does not wait long"
    db.tick()
    assert db.one(updated) == 200


def test_a_pods_login_can_see_stranded_jobs(db: AppTables, pod: Pod) -> None:
    job = db.ask(base="flux-dev")
    rows = pod.database.execute("select id, why from worker.stranded_jobs").fetchall()
    why = "flux-dev not found on a live pod or in the bucket: worker models push flux-dev"
    assert rows == [{"id": job, "why": why}]


def test_for_a_pod_of_0_1_0_a_gpu_fits_by_its_total_memory(db: AppTables) -> None:
    """It gives no other. A GPU of 24 GB reports less, because its driver and error correction use some."""
    gpus = (("RTX 4090", 23.5, True), ("A10G", 22.06, True), ("RTX 4080", 15.7, False), ("none", None, False))
    for gpu, vram_gib, fits in gpus:
        assert db.one("select worker.fits_memory(24, %s)", vram_gib) is fits, gpu


def test_a_pod_of_0_1_0_does_not_get_a_base_that_fits_only_if_it_is_quantised(db: AppTables) -> None:
    flux = "select worker.fits_memory(min_vram_gib, %s) from worker.base_models where slug = 'flux-dev'"
    assert (db.one(flux, 15.7), db.one(flux, 23.5)) == (False, True)


@pytest.mark.parametrize("code", ["model_missing", "out_of_memory"])
def test_a_job_requeued_for_its_base_fails_when_no_live_pod_has_the_route(
    db: AppTables, start_pod: StartPod, code: str
) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    attempt = running(db, first_pod)
    first_pod.register(TRAINING)
    assert attempt.release("the base flux-x is not here", code) == "queued"
    db.tick()
    assert db.status("generation", attempt.id) == ("queued", code), "another pod has the route"
    again = second_pod.run("generation", attempt.id)
    assert db.status("generation", attempt.id) == ("running", None)
    second_pod.register(TRAINING)
    again.release("nor here", code)
    db.tick()
    row = db.job("generation", attempt.id)
    assert (row["status"], row["error_code"], row["error"], row["failures"]) == ("failed", code, "nor here", 0)


def test_a_job_requeued_for_its_base_survives_an_outage(db: AppTables, start_pod: StartPod) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    attempt = running(db, first_pod)
    first_pod.register(TRAINING)
    attempt.release("the base flux-x is not here", "model_missing")
    silent_for(db, second_pod, 31)
    db.run("update worker.clock set last_tick = last_tick - interval '1 minute'")
    db.tick()
    assert db.status("generation", attempt.id) == ("queued", "model_missing")
    second_pod.register(GENERATION)
    assert second_pod.run("generation", attempt.id).number == 2


def test_a_job_requeued_for_its_base_waits_while_no_pod_is_live(db: AppTables, start_pod: StartPod) -> None:
    pod = start_pod()
    attempt = running(db, pod)
    assert attempt.release("the base flux-x is not here", "model_missing") == "queued"
    db.run("delete from worker.pods")
    db.tick()
    assert db.status("generation", attempt.id) == ("queued", "model_missing")
    start_pod().register(TRAINING)
    db.tick()
    assert db.status("generation", attempt.id) == ("failed", "model_missing")


def test_queue_and_jobs_are_reconciled(db: AppTables, pod: Pod) -> None:
    lost, young, ended = db.ask(), db.ask(), db.ask()
    with db.without_triggers():
        db.run("delete from worker.pgqueuer where dedupe_key <> %s", f"generation:{ended}")
        db.run("update public.generation_jobs set created_at = now() - interval '11 seconds' where id = %s", lost)
        db.run("update public.generation_jobs set status = 'cancelled', finished_at = now() where id = %s", ended)
    db.tick()
    assert db.queue_row("generation", ended) is None
    assert db.queue_row("generation", young) is None, "its INSERT may not have written the queue entry yet"
    assert pod.run("generation", lost).publish() == "ok"


def test_old_log_entries_are_deleted(db: AppTables, pod: Pod) -> None:
    old, new = running(db, pod), running(db, pod)
    for attempt in (old, new):
        attempt.complete(attempt.result())
    db.run("update worker.job_events set at = at - interval '31 days' where job_id = %s", old.id)
    db.run(
        "update worker.pgqueuer_log set created = created - interval '31 days' "
        "where job_id = (select min(job_id) from worker.pgqueuer_log)"
    )
    db.tick()
    assert (db.events(old.id), db.events(new.id)) == ([], ["started", "completed"])
    assert db.one("select count(*) from worker.pgqueuer_log") == 3


def test_a_locked_row_does_not_block_the_tick(db: AppTables, start_pod: StartPod) -> None:
    pod = start_pod()
    held, free = running(db, pod), running(db, pod)
    expired = db.add_subject()
    db.let_consent_expire(expired)
    silent_for(db, pod, 31)
    with psycopg.connect(db.url) as other_session:
        other_session.execute("select from public.generation_jobs where id = %s for update", [held.id])
        other_session.execute("select from public.subjects where id = %s for key share", [expired])
        db.run("set lock_timeout = '5s'")
        db.tick()
        assert db.status("generation", free.id) == ("queued", "worker_lost")
        assert db.status("generation", held.id) == ("running", None)
    db.tick()
    assert db.status("generation", held.id) == ("queued", "worker_lost")
    assert db.one("select consent_status from public.subjects where id = %s", expired) == "revoked"


def test_a_claim_of_an_unregistered_pod_is_requeued_without_counting_a_failure(db: AppTables, pod: Pod) -> None:
    job = db.ask()
    db.run("update worker.pgqueuer set status = 'picked', queue_manager_id = %s", uuid4())
    db.tick()
    assert db.job("generation", job)["failures"] == 0
    assert pod.claim() == ("generation", job)

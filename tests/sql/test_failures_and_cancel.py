"""Failures, releases, cancellations and retries, and the objects that attempts leave in storage."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.pod import PUBLISH, Attempt, Pod
from tests.sql.tables import AppTables

NEVER_RETRIED = ("consent_denied", "prompt_blocked", "output_blocked", "invalid_input", "input_missing")
RETRIED = ("storage_error", "worker_lost", "timeout", "internal")
AT_ONCE = timedelta(0)


def running(db: AppTables, pod: Pod, **columns: Any) -> Attempt:
    attempt = pod.run("generation", db.ask(**columns))
    attempt.staged_result()
    return attempt


def let_delays_pass(db: AppTables) -> None:
    db.run("update worker.pgqueuer set execute_after = now() - interval '1 second'")


# -- failures


def test_a_job_fails_for_good_after_max_failures(db: AppTables, pod: Pod) -> None:
    job = db.ask(max_failures=3)
    for failures, ending in ((1, "queued"), (2, "queued"), (3, "failed")):
        attempt = pod.run("generation", job)
        assert attempt.number == failures
        assert attempt.fail("storage_error", "the store said no", AT_ONCE, 2.0) == ending
        row = db.job("generation", job)
        assert (row["status"], row["failures"], row["gpu_seconds"]) == (ending, failures, 2.0 * failures)
        assert (row["error_code"], row["error"]) == ("storage_error", "the store said no")
    assert row["finished_at"] is not None
    assert db.queue_row("generation", job) is None
    assert pod.claim() is None


def test_backoff_grows_with_each_failure(db: AppTables, pod: Pod) -> None:
    job = db.ask(max_failures=20)
    for least, most in ((8, 12), (32, 48), (128, 192), (480, 720), (480, 720)):
        attempt = pod.run("generation", job)
        assert attempt.fail() == "queued"
        assert pod.claim() is None
        waits = db.one(
            """select extract(epoch from run_after - (select max(at) from worker.job_events))::float
               from public.generation_jobs where id = %s""",
            job,
        )
        assert least - 5 < waits <= most
        row = db.job("generation", job)
        assert (row["phase"], row["pod_id"], row["progress"]) == ("waiting to try again", None, 0)
        let_delays_pass(db)


@pytest.mark.parametrize("codes", [NEVER_RETRIED, RETRIED], ids=["never retried", "retried"])
def test_only_some_error_codes_are_retried(db: AppTables, pod: Pod, codes: tuple[str, ...]) -> None:
    for code in codes:
        attempt = running(db, pod, max_failures=2)
        answer = attempt.fail(code, "because")
        assert answer == ("failed" if codes is NEVER_RETRIED else "queued"), code
        assert db.status("generation", attempt.id) == (answer, code)
        assert db.job("generation", attempt.id)["failures"] == 1
        assert set(db.staged(attempt.id).values()) == {"deleting"}


def test_a_failure_sent_twice_counts_once(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    assert [attempt.fail(), attempt.fail()] == ["queued", "lost"]
    assert db.job("generation", attempt.id)["failures"] == 1


# -- releases


def test_a_release_does_not_count_as_a_failure_and_can_be_claimed_at_once(
    db: AppTables, start_pod: Callable[..., Pod]
) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    attempt = running(db, first_pod, max_failures=1)
    listener = psycopg.connect(db.url, autocommit=True)
    listener.execute("listen likeness_queue")
    assert attempt.release("its pod is stopping", gpu_s=4.0) == "queued"
    assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1
    listener.close()
    row = db.job("generation", attempt.id)
    assert (row["status"], row["failures"], row["error_code"], row["gpu_seconds"]) == ("queued", 0, None, 4.0)
    assert row["phase"] == "its pod is stopping"
    again = second_pod.run("generation", attempt.id)
    assert (again.number, again.publish()) == (2, "ok")
    assert db.job("generation", attempt.id)["gpu_seconds"] == 5.0


# -- cancel and retry


def cancel(db: AppTables, job: UUID, **actor: Any) -> str:
    return _as(db, "cancel_job", job, **actor)


def retry(db: AppTables, job: UUID, **actor: Any) -> str:
    return _as(db, "retry_job", job, **actor)


def _as(db: AppTables, function: str, job: UUID, role: str = "authenticated", user: UUID | None = None) -> str:
    with db.acting_as(role, (user or db.owner) if role == "authenticated" else None) as connection:
        row = connection.execute(f"select {function}('generation', %s) as answer", [job]).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return str(row["answer"])


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_cancelling_ends_a_waiting_job_and_stops_a_running_one(db: AppTables, pod: Pod, role: str) -> None:
    waiting = db.ask()
    assert cancel(db, waiting, role=role) == "cancelled"
    assert (db.status("generation", waiting), db.queue_row("generation", waiting)) == (("cancelled", None), None)
    endings: list[Callable[[Attempt], str]] = [
        lambda attempt: attempt.complete(attempt.result()),
        lambda attempt: attempt.fail(),
        lambda attempt: attempt.release(),
    ]
    for end in endings:
        attempt = running(db, pod)
        listener = psycopg.connect(db.url, autocommit=True)
        listener.execute("listen likeness_cancel")
        assert cancel(db, attempt.id, role=role) == "stopping"
        (notification,) = listener.notifies(timeout=5, stop_after=1)
        assert notification.payload == f"generation:{attempt.id}"
        listener.close()
        assert attempt.report() == "cancel"
        assert pod.heartbeat(attempt)["leases"][0]["state"] == "cancel"
        assert end(attempt) == "cancelled"
        assert db.status("generation", attempt.id) == ("cancelled", None)
        assert set(db.staged(attempt.id).values()) == {"deleting"}
        assert cancel(db, attempt.id, role=role) == "cancelled", "it has already ended"


def test_a_job_cancelled_between_claim_and_start_does_not_start(db: AppTables, pod: Pod) -> None:
    job = db.ask()
    claim = pod.claim()
    assert claim is not None
    assert cancel(db, job) == "cancelled"
    assert pod.start(*claim) is None
    assert pod.heartbeat(claim)["leases"][0]["state"] == "lost"
    assert db.status("generation", job) == ("cancelled", None)


def test_retry_requeues_an_ended_job_with_zero_failures(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod, max_failures=1)
    attempt.fail("internal")
    ended = db.job("generation", attempt.id)["finished_at"]
    assert retry(db, attempt.id) == "queued"
    row = db.job("generation", attempt.id)
    assert (row["failures"], row["error_code"], row["finished_at"], row["attempt"]) == (0, None, None, 1)
    retried = db.one("select at from worker.job_events where job_id = %s and event = 'retried'", attempt.id)
    assert ended < row["run_after"] < retried, "its waiting time starts here"
    again = pod.run("generation", attempt.id)
    assert (again.number, attempt.report(), again.publish()) == (2, "lost", "ok")


def test_only_failed_and_cancelled_jobs_can_be_retried(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    for status in ("running", "completed"):
        if status == "completed":
            attempt.complete(attempt.result())
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"a {status} job cannot be retried"):
            retry(db, attempt.id)


def test_a_retried_job_counts_as_open_and_needs_consent_again(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    jobs = [db.ask(subject_id=subject), db.ask(subject_id=subject)]
    db.run("select public.revoke_consent(%s)", subject)
    db.run("update worker.config set open_jobs_per_owner = 1")
    assert retry(db, jobs[0]) == "queued"
    with pytest.raises(psycopg.Error, match="too many open jobs"):
        retry(db, jobs[1])
    assert pod.start(*pod.claim()) is None  # type: ignore[misc]
    assert db.status("generation", jobs[0]) == ("failed", "consent_denied")


def test_another_owners_job_and_an_unknown_one_give_the_same_error(db: AppTables, pod: Pod) -> None:
    stranger = db.add_user(uuid4())
    job = db.ask()
    before = db.snapshot()
    for function in (cancel, retry):
        for unknown in (job, uuid4()):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="job not found for this user"):
                function(db, unknown, user=stranger)
    for function_name in ("cancel_job", "retry_job"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            pod.database.execute(f"select public.{function_name}('generation', %s)", [job])  # type: ignore[arg-type]
    assert db.snapshot() == before


# -- checkpoints


def test_the_next_attempt_resumes_from_the_newest_checkpoint(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    subject = db.add_subject()
    db.add_photos(subject)
    job = db.request("training", subject_id=subject)
    first = first_pod.run("training", job)
    assert first.payload["checkpoint"] is None
    assert [first.save_checkpoint(step) for step in (10, 20)] == ["ok", "ok"]
    older, newer = first.key("checkpoint-10.safetensors"), first.key("checkpoint-20.safetensors")
    assert db.claim_deletable() == {older}, "the older checkpoint is no longer needed"
    first.stage("checkpoint-30.safetensors")  # its upload did not finish
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="was not staged by this attempt"):
        first.call("save_checkpoint", 40, "model_artifacts", first.key("checkpoint-40.safetensors"))
    assert first.fail(retry_after=AT_ONCE) == "queued"
    assert db.claim_deletable() == {first.key("checkpoint-30.safetensors")}, "the checkpoint outlives its attempt"

    second = second_pod.run("training", job)
    assert second.payload["checkpoint"] == {"step": 20, "bucket": "model_artifacts", "key": newer}
    assert str(first.call("save_checkpoint", 50, "model_artifacts", newer)) == "lost"
    assert second.publish() == "ok"
    assert db.claim_deletable() == {newer}


# -- deletable objects


def test_leftovers_of_an_attempt_are_swept_and_never_a_published_key(db: AppTables, pod: Pod) -> None:
    failed, published = running(db, pod), running(db, pod)
    published.stage("scratch.bin")
    keep = running(db, pod)
    failed.fail()
    assert published.complete(published.result()) == "ok"
    left = {failed.key("0.png"), failed.key("0.raw.png"), published.key("scratch.bin")}
    assert db.tick() == len(left)
    assert db.claim_deletable() == left
    assert db.claim_deletable() == set(), "another pod is deleting them"
    for state, attempt in (("published", published), ("staged", keep)):
        assert db.staged(attempt.id)[attempt.key("0.png")] == state
    # A pod cannot mark a published object as deleted.
    ids = [row["id"] for row in db.run("select id from worker.staged_objects where state <> 'deleting'")]
    for _ in range(5):
        pod.call("mark_objects_deleted", ids)
    assert db.staged(published.id)[published.key("0.png")] == "published"


def test_deleted_objects_are_swept_three_more_times_for_late_uploads(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    attempt.fail()
    for minutes in (15, 60, 24 * 60, None):
        offered = db.one("select worker.claim_deletable_objects(1, %s)", Jsonb(db.seen))
        pod.call("mark_objects_deleted", [offered[0]["id"]])
        rows = db.run(
            "select offer_after - clock_timestamp() as wait from worker.staged_objects where id = %s", offered[0]["id"]
        )
        if minutes is None:
            assert rows == []
        else:
            assert timedelta(minutes=minutes - 1) < rows[0]["wait"] <= timedelta(minutes=minutes)
            db.run(
                "update worker.staged_objects set offer_after = now() - interval '1 second' where id = %s",
                offered[0]["id"],
            )
            # The other object stays claimed by another pod.
            db.run(
                "update worker.staged_objects set offer_after = now() + interval '9 days' where id <> %s",
                offered[0]["id"],
            )


def test_objects_claimed_by_a_dead_sweeper_are_claimed_again(db: AppTables, pod: Pod) -> None:
    attempt = running(db, pod)
    attempt.fail()
    claimed = db.claim_deletable()
    db.run("update worker.staged_objects set offer_after = offer_after - interval '1 minute'")
    assert db.claim_deletable() == claimed


# -- views for operators


def test_the_list_of_jobs_fits_a_terminal_of_120_characters(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    pod.run("training", db.request("training", subject_id=subject)).publish()
    for code in ("internal", "consent_denied"):
        running(db, pod, max_failures=1).fail(code, "a reason of many words " * 20)
    running(db, pod).report(0.5, "a phase of many words " * 9)
    waiting = db.ask()
    rows = db.run("select * from worker.jobs")
    assert rows[0]["id"] == waiting, "newest first"
    assert {row["kind"] for row in rows} == {"training", "generation", "publish_lora"}
    psql = shutil.which("psql")
    if psql is None:
        widths = [max(len(str(value)) for value in [name, *(row[name] for row in rows)]) for name in rows[0]]
        assert sum(widths) + 3 * (len(widths) - 1) + 2 <= 120
        return
    shown = subprocess.run([psql, "-X", "-c", "table worker.jobs", db.url], capture_output=True, text=True, check=True)
    lines = shown.stdout.splitlines()
    assert len(lines) == len(rows) + 4
    assert max(map(len, lines)) <= 120


def test_queue_depth_counts_waiting_and_running_jobs_and_pods_by_route(
    db: AppTables, start_pod: Callable[..., Pod]
) -> None:
    pod = start_pod()
    start_pod(routes=(PUBLISH,))
    running(db, pod)
    db.ask()
    db.ask(base="flux-dev")
    depth = {row["route"]: row for row in db.run("select * from worker.queue_depth")}
    seen = {route: (row["waiting"], row["running"], row["pods"]) for route, row in depth.items()}
    assert seen == {
        "generation/tiny-flux": (1, 1, 1),
        "generation/flux-dev": (1, 0, 0),
        "training/tiny-flux": (0, 0, 1),
        "publish_lora": (0, 0, 2),
    }
    assert depth["generation/flux-dev"]["oldest"] < timedelta(minutes=5)
    assert depth["publish_lora"]["oldest"] is None

"""kill -9: nothing is lost, nothing is published twice, and no process of a dead worker keeps running."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.processes import WorkerProcess
from tests.waiting import wait_until
from tests.worker.conftest import LONG_ECHO, MakeFleet
from tests.worker.fleet import Fleet
from tests.worker.test_stopping import assert_deregistered

CHECKPOINT_EVERY_S = "0.4"
STEPS = 120
ECHO = {"times": 100, "pause_ms": 20}
"""Long enough to be killed in the middle and short enough to be repeated."""


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet) -> Fleet:
    return make_echo_fleet()


@pytest.fixture(scope="module")
def training_fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet(CHECKPOINT_EVERY_SECONDS=CHECKPOINT_EVERY_S, WORKER_KINDS="training")


def kill_gpu_process(worker: WorkerProcess) -> int:
    (pid,) = worker.gpu_pids()
    os.kill(pid, signal.SIGKILL)
    return pid


def pod_of(worker: WorkerProcess) -> str:
    pod_id: str = worker.events("worker.ready")[0]["pod_id"]
    return pod_id


def running(fleet: Fleet, job_id: UUID) -> WorkerProcess:
    """Return the worker that runs an echo."""
    pod_id = str(fleet.app.job("echo", job_id)["pod_id"])
    (worker,) = [worker for worker in fleet.living() if pod_of(worker) == pod_id]
    return worker


def wait_for_checkpoint_of(fleet: Fleet, job_id: UUID, attempt: int) -> int:
    """Return the step of an attempt's newest uploaded checkpoint, once there is one."""
    newest = """select max((detail ->> 'step')::int) from worker.job_events
                where job_id = %s and event = 'checkpoint' and attempt = %s"""
    wait_until(lambda: fleet.app.one(newest, job_id, attempt), f"a checkpoint of attempt {attempt} of {job_id}", 60)
    step: int = fleet.app.one(newest, job_id, attempt)
    return step


def assert_finished_once(fleet: Fleet, job: dict[str, Any], failures: int = 1) -> None:
    """The last attempt finished, each failure was counted, and storage has only that attempt's files."""
    job_id, attempts = job["id"], failures + 1
    assert (job["attempt"], job["failures"]) == (attempts, failures)
    events = fleet.app.events(job_id)
    assert (events.count("started"), events.count("requeued"), events.count("completed")) == (attempts, failures, 1)
    fleet.wait_swept(job_id)
    published = fleet.published(job_id)
    assert published
    assert all(f"/{job_id}/{attempts}/" in key for key in published)


# -- a training, which resumes


def test_a_training_resumes_on_another_pod_after_its_worker_is_killed_and_after_sigterm_which_counts_no_failure(
    training_fleet: Fleet,
) -> None:
    fleet = training_fleet
    (first,) = fleet.ready(1)
    job_id = fleet.train(steps=STEPS)
    checkpoints = [fleet.wait_for_checkpoint(job_id)]
    second = fleet.start(ready=False)
    first.kill()
    wait_until(lambda: not first.gpu_pids(), "the GPU process to end with its worker")
    # If the pod that ticks dies, another must tick at once, not only after its heartbeats are overdue.
    wait_until(lambda: fleet.app.one("select worker.lock_is_free(%s)", pod_of(first)), "its lock to be released")
    assert not fleet.app.one("select worker.is_ticker(%s)", pod_of(first))
    checkpoints.append(wait_for_checkpoint_of(fleet, job_id, 2))
    fleet.start(ready=False)
    assert second.terminate() == 0
    assert_deregistered(fleet, second)
    job = fleet.completed("training", job_id)
    assert (job["attempt"], job["failures"]) == (3, 1)
    assert fleet.app.events(job_id).count("completed") == 1
    fleet.wait_swept(job_id)
    assert all(f"/{job_id}/3/" in key for key in fleet.published(job_id))
    assert fleet.app.one("select count(*) from public.subjects_models where job_id = %s", job_id) == 1
    # Each attempt resumed from an uploaded checkpoint, and no step is missing.
    starts = fleet.started(job_id)
    assert [start["pod_id"] for start in starts[:2]] == [pod_of(first), pod_of(second)]
    assert starts[2]["pod_id"] not in (pod_of(first), pod_of(second))
    assert starts[0]["resumed_step"] is None
    for start, checkpoint in zip(starts[1:], checkpoints, strict=True):
        assert start["resumed_step"] >= checkpoint
    losses = json.loads(fleet.app.read(fleet.app.models, job["result"]["losses"]))
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert not fleet.app.run("select 1 from worker.pods where id = %s", pod_of(first))


def test_a_training_whose_last_attempt_loses_its_worker_fails_for_good_and_leaves_no_checkpoint(
    training_fleet: Fleet,
) -> None:
    fleet = training_fleet
    (victim,) = fleet.ready(1)
    job_id = fleet.train(steps=STEPS, max_failures=1)
    fleet.wait_for_checkpoint(job_id)
    victim.kill()
    fleet.start(ready=False, WORKER_KINDS="publish_lora")  # any pod that runs the tick
    job = fleet.app.wait_for("training", job_id)
    assert (job["status"], job["error_code"], job["failures"]) == ("failed", "worker_lost", 1)
    fleet.wait_swept(job_id)
    assert fleet.stored(job_id) == set()


# -- jobs that begin again


def test_a_job_is_retried_after_its_gpu_process_is_killed(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    job_id = fleet.echo(**ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    kill_gpu_process(worker)
    assert_finished_once(fleet, fleet.completed("echo", job_id))


def test_killing_an_idle_gpu_process_affects_no_job(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    fleet.completed("echo", fleet.echo())
    killed = kill_gpu_process(worker)
    wait_until(lambda: not Path(f"/proc/{killed}").exists(), "the worker to detect its end")
    job = fleet.completed("echo", fleet.echo())
    assert (job["attempt"], job["failures"]) == (1, 0)


def test_a_job_that_kills_its_gpu_process_every_time_fails_for_good(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    job_id = fleet.echo(**LONG_ECHO, max_failures=2)
    for attempt in (1, 2):
        fleet.wait_for_phase("echo", job_id, "echoing", attempt=attempt)
        kill_gpu_process(worker)
    job = fleet.app.wait_for("echo", job_id)
    assert (job["status"], job["error_code"], job["failures"], job["attempt"]) == ("failed", "worker_lost", 2, 2)
    assert "SIGKILL" in job["error"]
    fleet.wait_swept(job_id)
    assert fleet.stored(job_id) == set()


def test_a_job_is_retried_by_a_restarted_worker(fleet: Fleet) -> None:
    (victim,) = fleet.ready(1)
    job_id = fleet.echo(**ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    victim.kill()
    fleet.start()
    assert_finished_once(fleet, fleet.completed("echo", job_id))


def test_a_paused_pod_cannot_overwrite_the_attempt_that_replaced_its_own(fleet: Fleet) -> None:
    """It is stopped and continued, not killed, and so still believes that it holds the job."""
    fleet.ready(2)
    job_id = fleet.echo(**ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    paused = running(fleet, job_id)
    pod_id = pod_of(paused)
    (gpu_pid,) = paused.gpu_pids()
    paused.process.send_signal(signal.SIGSTOP)
    os.kill(gpu_pid, signal.SIGSTOP)
    try:
        # Its lock is still held: only overdue heartbeats show it. Move the last one back instead of waiting.
        fleet.app.run("update worker.pods set last_heartbeat = last_heartbeat - interval '31 s' where id = %s", pod_id)
        wait_until(lambda: len(fleet.started(job_id)) == 2, "another pod to take over")
    finally:
        paused.process.send_signal(signal.SIGCONT)
        os.kill(gpu_pid, signal.SIGCONT)
    wait_until(lambda: paused.events("lease.lost"), "the paused pod to notice")
    assert_finished_once(fleet, fleet.completed("echo", job_id))
    wait_until(
        lambda: fleet.app.run("select 1 from worker.pods where id = %s", pod_id), "the paused pod to register again"
    )

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
from tests.worker.conftest import Fleet, MakeFleet

CHECKPOINT_EVERY_S = "0.4"
STEPS = 120


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet(CHECKPOINT_EVERY_SECONDS=CHECKPOINT_EVERY_S)


def long_training(fleet: Fleet, **columns: object) -> UUID:
    """Request a training that is long enough to be killed in the middle and short enough to be repeated."""
    return fleet.train(steps=STEPS, **columns)


def long_drawing(fleet: Fleet, **columns: object) -> UUID:
    return fleet.draw(steps=60, num_images=4, **columns)


def kill_gpu_process(worker: WorkerProcess) -> int:
    (pid,) = worker.gpu_pids()
    os.kill(pid, signal.SIGKILL)
    return pid


def assert_finished_once(fleet: Fleet, kind: str, job: dict[str, Any]) -> None:
    """The second attempt finished, one failure was counted, and storage has only that attempt's files."""
    job_id = job["id"]
    assert (job["attempt"], job["failures"]) == (2, 1)
    events = fleet.app.events(job_id)
    assert (events.count("started"), events.count("requeued"), events.count("completed")) == (2, 1, 1)
    fleet.wait_swept(job_id)
    published = fleet.published(job_id)
    assert published
    assert all(f"/{job_id}/2/" in key for key in published)
    if kind == "training":
        assert fleet.app.one("select count(*) from public.subjects_models where job_id = %s", job_id) == 1


def assert_resumed(fleet: Fleet, job: dict[str, Any], checkpoint: int) -> None:
    """The second attempt resumed from an uploaded checkpoint, and no step is missing."""
    first, second = fleet.started(job["id"])
    assert first["resumed_step"] is None
    assert second["resumed_step"] >= checkpoint
    losses = json.loads(fleet.app.read(fleet.app.models, job["result"]["losses"]))
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))


def test_a_training_resumes_on_the_same_pod_after_its_gpu_process_is_killed(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    job_id = long_training(fleet)
    checkpoint = fleet.wait_for_checkpoint(job_id)
    killed = kill_gpu_process(worker)
    job = fleet.completed("training", job_id)
    assert_finished_once(fleet, "training", job)
    assert_resumed(fleet, job, checkpoint)
    first, second = fleet.started(job_id)
    assert first["pod_id"] == second["pod_id"]
    assert killed not in worker.gpu_pids()


def test_a_generation_is_retried_after_its_gpu_process_is_killed(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    job_id = long_drawing(fleet)
    fleet.wait_for_phase("generation", job_id, "drawing")
    kill_gpu_process(worker)
    assert_finished_once(fleet, "generation", fleet.completed("generation", job_id))


def test_killing_an_idle_gpu_process_affects_no_job(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    fleet.completed("generation", fleet.draw())
    killed = kill_gpu_process(worker)
    wait_until(lambda: not Path(f"/proc/{killed}").exists(), "the worker to detect its end")
    job = fleet.completed("generation", fleet.draw())
    assert (job["attempt"], job["failures"]) == (1, 0)


def test_a_job_that_kills_its_gpu_process_every_time_fails_for_good(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    job_id = fleet.train(steps=10_000, max_failures=2)
    for attempt in (1, 2):
        fleet.wait_for_phase("training", job_id, "training", attempt=attempt)
        kill_gpu_process(worker)
    job = fleet.app.wait_for("training", job_id)
    assert (job["status"], job["error_code"], job["failures"], job["attempt"]) == ("failed", "worker_lost", 2, 2)
    assert "SIGKILL" in job["error"]
    fleet.wait_swept(job_id)
    assert fleet.stored(job_id) == set()


def test_a_training_resumes_on_another_pod_after_its_worker_is_killed(fleet: Fleet) -> None:
    workers = fleet.ready(2)
    job_id = long_training(fleet)
    checkpoint = fleet.wait_for_checkpoint(job_id)
    pod_id = str(fleet.app.job("training", job_id)["pod_id"])
    (victim,) = [worker for worker in workers if worker.events("worker.ready")[0]["pod_id"] == pod_id]
    gpu_pids = victim.gpu_pids()
    victim.kill()
    wait_until(lambda: not victim.gpu_pids(), "the GPU process to end with its worker")
    # Both pods tick. If both die, a third pod must tick at once, not only after their heartbeats are overdue.
    wait_until(lambda: fleet.app.one("select worker.lock_is_free(%s)", pod_id), "its lock to be released")
    assert not fleet.app.one("select worker.is_ticker(%s)", pod_id)
    assert gpu_pids
    job = fleet.completed("training", job_id)
    assert_finished_once(fleet, "training", job)
    assert_resumed(fleet, job, checkpoint)
    first, second = fleet.started(job_id)
    assert first["pod_id"] != second["pod_id"]
    assert not fleet.app.run("select 1 from worker.pods where id = %s", pod_id)


def test_a_generation_is_retried_by_a_restarted_worker(fleet: Fleet) -> None:
    for worker in fleet.living()[1:]:
        worker.kill()
    (victim,) = fleet.ready(1)
    job_id = long_drawing(fleet)
    fleet.wait_for_phase("generation", job_id, "drawing")
    victim.kill()
    fleet.start()
    assert_finished_once(fleet, "generation", fleet.completed("generation", job_id))


def test_a_job_whose_last_attempt_loses_its_worker_fails_for_good(fleet: Fleet) -> None:
    (victim,) = fleet.ready(1)
    job_id = long_training(fleet, max_failures=1)
    fleet.wait_for_checkpoint(job_id)
    victim.kill()
    fleet.start(ready=False)  # any pod that runs the tick
    job = fleet.app.wait_for("training", job_id)
    assert (job["status"], job["error_code"], job["failures"]) == ("failed", "worker_lost", 1)
    fleet.wait_swept(job_id)
    assert fleet.stored(job_id) == set()


def test_a_paused_pod_cannot_overwrite_the_attempt_that_replaced_its_own(fleet: Fleet) -> None:
    """It is stopped and continued, not killed, and so still believes that it holds the job."""
    fleet.ready(2)
    job_id = long_training(fleet)
    fleet.wait_for_checkpoint(job_id)
    pod_id = str(fleet.app.job("training", job_id)["pod_id"])
    (paused,) = [worker for worker in fleet.living() if worker.events("worker.ready")[0]["pod_id"] == pod_id]
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
    job = fleet.completed("training", job_id)
    assert_finished_once(fleet, "training", job)
    wait_until(
        lambda: fleet.app.run("select 1 from worker.pods where id = %s", pod_id), "the paused pod to register again"
    )

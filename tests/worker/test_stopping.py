"""Shutdown, cancellation and time limits of running jobs."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.processes import WorkerProcess
from tests.s3_relay import S3Relay
from tests.waiting import wait_until
from tests.worker.conftest import LONG_ECHO, MakeFleet
from tests.worker.fleet import Fleet
from worker.demo.servers import EmbeddedS3


@pytest.fixture(scope="module")
def relay(s3_server: EmbeddedS3) -> Iterator[S3Relay]:
    with S3Relay(s3_server.url()) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet, relay: S3Relay) -> Fleet:
    return make_echo_fleet(S3_ENDPOINT_URL=relay.url)


def assert_deregistered(fleet: Fleet, worker: WorkerProcess) -> None:
    """Its pod is deregistered, its jobs are requeued, and no process of it is left."""
    pod_id = worker.events("worker.ready")[0]["pod_id"]
    assert fleet.app.run("select 1 from worker.pods where id = %s", pod_id) == []
    assert fleet.app.one("select count(*) from worker.pgqueuer where queue_manager_id = %s", pod_id) == 0
    assert worker.gpu_pids() == []
    assert worker.events("worker.stopped")


def test_a_worker_with_a_hanging_store_stops_on_sigterm(fleet: Fleet, relay: S3Relay) -> None:
    """The worker does not wait for its threads that wait for the store."""
    worker = fleet.start(WORKER_KINDS="publish_lora")
    person = fleet.app.add_subject()
    copying = relay.hold("PUT", f"/{person}/lora.safetensors", "before")
    job_id = fleet.copy_lora(person)
    assert copying.reached.wait(60)
    assert worker.terminate(20) == 0
    assert_deregistered(fleet, worker)
    job = fleet.app.job("publish_lora", job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("queued", 1, 0)
    copying.let_go()


def test_a_job_over_max_runtime_is_stopped_and_counts_as_a_failure(fleet: Fleet) -> None:
    fleet.ready(1)
    job_id = fleet.echo(**LONG_ECHO, max_runtime="1 s", max_failures=1)
    job = fleet.app.wait_for("echo", job_id)
    assert (job["status"], job["error_code"], job["failures"]) == ("failed", "timeout", 1)
    assert "max_runtime" in job["error"]
    fleet.completed("echo", fleet.echo())


def test_sigterm_during_a_publication_finishes_it_first(fleet: Fleet, relay: S3Relay) -> None:
    (worker,) = fleet.ready(1)
    held = relay.hold("PUT", "/1/echo.txt", "half")
    job_id = fleet.echo()
    assert held.reached.wait(60)
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: worker.events("worker.stopping"), "the worker to handle the signal")
    held.let_go()
    assert worker.process.wait(60) == 0
    assert_deregistered(fleet, worker)
    job = fleet.app.job("echo", job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("completed", 1, 0)
    assert fleet.stored(job_id) == fleet.published(job_id) != set()


def test_a_second_signal_stops_at_once_and_requeues_the_publishing_job_without_a_failure(
    fleet: Fleet, relay: S3Relay
) -> None:
    """Ctrl-C twice while the store hangs: the worker does not wait for it."""
    (worker,) = fleet.ready(1)
    held = relay.hold("PUT", "/1/echo.txt", "half")
    job_id = fleet.echo()
    assert held.reached.wait(60)
    worker.process.send_signal(signal.SIGINT)
    wait_until(lambda: worker.events("worker.stopping"), "the worker to handle the signal")
    assert worker.process.poll() is None
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(30) == 0
    assert worker.events("worker.stopping_at_once")
    assert_deregistered(fleet, worker)
    held.let_go()
    job = fleet.app.job("echo", job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("queued", 1, 0)
    fleet.ready(1)
    assert fleet.completed("echo", job_id)["attempt"] == 2


def test_ctrl_c_requeues_a_job_that_is_being_computed(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    job_id = fleet.echo(**LONG_ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(30) == 0
    assert_deregistered(fleet, worker)
    job = fleet.app.job("echo", job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("queued", 1, 0)
    assert fleet.app.one("select public.cancel_job('echo', %s)", job_id) == "cancelled"


def test_sigterm_before_the_first_job_stops_the_worker(fleet: Fleet) -> None:
    worker = fleet.start(ready=False, WORKER_NAME="early")
    registered = "select count(*) from worker.pods where name = 'early'"
    wait_until(lambda: fleet.app.one(registered), "the pod to register")
    assert worker.terminate() == 0
    assert fleet.app.one(registered) == 0
    assert worker.gpu_pids() == []

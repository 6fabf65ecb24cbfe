"""Postgres commits and the reply is lost: no job is lost, counted twice, or deleted after publication."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import Databases
from tests.proxy import PostgresProxy
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet, as_pod
from tests.worker.studio import Studio
from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres

SESSION = "likeness session"


@pytest.fixture(scope="module")
def proxy(databases: Databases) -> Iterator[PostgresProxy]:
    with databases.fresh() as url, PostgresProxy(url) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet, databases: Databases, proxy: PostgresProxy) -> Fleet:
    """The tests connect to the server directly, the worker through the proxy."""
    direct = databases.server.url(proxy.url.rsplit("/", 1)[1])
    return make_echo_fleet(direct, DATABASE_URL=as_pod(proxy.url))


@pytest.fixture
def worker_ready(fleet: Fleet) -> None:
    fleet.ready(1)


def assert_done_once(fleet: Fleet, job_id: UUID, kind: str = "echo", failures: int = 0) -> None:
    job = fleet.completed(kind, job_id)
    assert (job["attempt"], job["failures"]) == (1 + failures, failures)
    events = fleet.app.events(job_id)
    assert (events.count("started"), events.count("completed")) == (1 + failures, 1)
    assert fleet.wait_for_outcomes(job_id, 1 + failures)[-1] == "ok"
    fleet.wait_swept(job_id)
    assert fleet.published(job_id)
    assert fleet.app.one("select count(*) from worker.pgqueuer where dedupe_key like %s", f"%{job_id}") == 0


@pytest.mark.usefixtures("worker_ready")
@pytest.mark.parametrize("call", ["start_job", "report_job", "stage_objects", "complete_job"])
def test_a_call_with_a_lost_reply_is_repeated_and_the_job_is_done_once(
    fleet: Fleet, proxy: PostgresProxy, call: str
) -> None:
    loss = proxy.lose_reply_to(f'"{call}"')
    job_id = fleet.echo()
    assert_done_once(fleet, job_id)
    assert loss.lost.is_set()


@pytest.mark.usefixtures("worker_ready")
def test_a_claim_with_a_lost_reply_is_requeued_without_counting_a_failure(fleet: Fleet, proxy: PostgresProxy) -> None:
    """No heartbeat names the claim, because the pod does not know of it: after 30 s the next heartbeat requeues it."""
    blocker = fleet.echo(times=100, pause_ms=20)  # the pod claims the next GPU job when this one is computed
    fleet.wait_for_phase("echo", blocker, "echoing")
    loss = proxy.lose_reply_to("next_queued", "echo")
    job_id = fleet.echo()
    key = f"echo:{job_id}"
    status = "select status::text from worker.pgqueuer where dedupe_key = %s"
    wait_until(lambda: fleet.app.one(status, key) == "picked", "the claim")
    assert loss.lost.wait(10)
    # As if no heartbeat had named it for 31 s.
    fleet.app.run("update worker.pgqueuer set heartbeat = heartbeat - interval '31 s' where dedupe_key = %s", key)
    assert_done_once(fleet, job_id)
    assert fleet.app.events(job_id).count("requeued") == 1


@pytest.mark.usefixtures("worker_ready")
def test_a_failure_with_a_lost_reply_counts_once(fleet: Fleet, proxy: PostgresProxy) -> None:
    loss = proxy.lose_reply_to('"fail_job"')
    (worker,) = fleet.ready(1)
    job_id = fleet.echo(times=100, pause_ms=20)
    fleet.wait_for_phase("echo", job_id, "echoing")
    (gpu_pid,) = worker.gpu_pids()
    os.kill(gpu_pid, signal.SIGKILL)
    assert_done_once(fleet, job_id, failures=1)
    assert loss.lost.is_set()


def is_pod_with_lock(fleet: Fleet) -> bool:
    return fleet.app.one("select bool_and(has_lock and not worker.lock_is_free(id)) from worker.pods") is True


@pytest.mark.usefixtures("worker_ready")
def test_a_pod_without_its_session_is_not_considered_dead_and_its_job_continues(
    fleet: Fleet, proxy: PostgresProxy
) -> None:
    job_id = fleet.echo(times=1000, pause_ms=50)
    fleet.wait_for_phase("echo", job_id, "echoing")
    pod_id = fleet.app.job("echo", job_id)["pod_id"]
    proxy.refuse(SESSION)
    assert proxy.cut(SESSION) == 1
    wait_until(lambda: not is_pod_with_lock(fleet), "the lock to be released")
    # With a heartbeat every 8 s it would be considered dead before the first one: count heartbeats between ticks.
    heartbeats, ticks = set(), set()

    def watch() -> bool:
        pods = fleet.app.run("select last_heartbeat from worker.pods where id = %s", pod_id)
        assert pods, "the pod was considered dead"
        heartbeats.add(pods[0]["last_heartbeat"])
        ticks.add(fleet.app.one("select last_tick from worker.clock"))
        return len(ticks) > 3

    wait_until(watch, "three ticks")
    assert len(heartbeats) >= len(ticks)
    proxy.allow(SESSION)
    wait_until(lambda: is_pod_with_lock(fleet), "the session to come back")
    # It listens again: a cancellation reaches the job.
    assert fleet.app.one("select public.cancel_job('echo', %s)", job_id) == "stopping"
    job = fleet.app.wait_for("echo", job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("cancelled", 1, 0)
    assert fleet.app.events(job_id).count("requeued") == 0


@pytest.mark.usefixtures("worker_ready")
def test_a_job_survives_the_loss_of_every_connection(fleet: Fleet, proxy: PostgresProxy) -> None:
    job_id = fleet.echo(times=100, pause_ms=20)
    fleet.wait_for_phase("echo", job_id, "echoing")
    assert proxy.cut() >= 2
    assert_done_once(fleet, job_id)


def test_a_training_survives_lost_replies_to_a_checkpoint_and_to_its_end(studio: Studio) -> None:
    losses = [studio.proxy.lose_reply_to(f'"{call}"') for call in ("save_checkpoint", "complete_job")]
    job_id = studio.fleet.train(steps=60)
    assert_done_once(studio.fleet, job_id, "training")
    assert all(loss.lost.is_set() for loss in losses)
    assert studio.fleet.app.one("select count(*) from public.subjects_models where job_id = %s", job_id) == 1


def test_a_worker_survives_a_restart_of_postgres_and_stops_on_sigterm_without_it(
    make_echo_fleet: MakeFleet, tmp_path: Path
) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", fast=True) as server:
        migrate.install_supabase_stubs(server.url())
        migrate.migrate(server.url())
        with PostgresProxy(server.url()) as proxy:
            fleet = make_echo_fleet(server.url(), DATABASE_URL=as_pod(proxy.url))
            (worker,) = fleet.ready(1)
            job_id = fleet.echo(times=150, pause_ms=20)
            fleet.wait_for_phase("echo", job_id, "echoing")
            fleet.app.database.close()
            server.stop()
            wait_until(lambda: worker.events("heartbeat.failed"), "the worker to detect it")
            server.start()
            proxy.target_port = server.port
            fleet.app.reconnect(server.url())
            assert_done_once(fleet, job_id)

            # It cannot requeue the job, and does not wait forever for the database.
            fleet.wait_for_phase("echo", fleet.echo(times=1000, pause_ms=1000), "echoing")
            fleet.app.database.close()
            server.stop()
            assert worker.terminate(timeout_s=60) == 0
            assert worker.events("worker.stopping_without_database")
            assert worker.gpu_pids() == []
            server.start()

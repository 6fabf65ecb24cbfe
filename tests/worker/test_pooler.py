"""Behind a transaction-mode pooler notifications never arrive: the pod detects it, logs it once, and polls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.conftest import Databases
from tests.proxy import PostgresProxy
from tests.waiting import wait_until
from tests.worker.conftest import LONG_ECHO, MakeFleet
from tests.worker.fleet import Fleet, as_pod
from worker.pod.heartbeat import HEARTBEAT_EVERY_S


@pytest.fixture(scope="module")
def pooler(databases: Databases) -> Iterator[PostgresProxy]:
    with databases.fresh() as url, PostgresProxy(url, mute=True, invents_pids=True) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet, databases: Databases, pooler: PostgresProxy) -> Fleet:
    return make_echo_fleet(databases.server.url(pooler.url.rsplit("/", 1)[1]), DATABASE_URL=as_pod(pooler.url))


def test_a_pod_that_cannot_listen_logs_it_once_takes_no_lock_and_still_works(
    fleet: Fleet, pooler: PostgresProxy
) -> None:
    (worker,) = fleet.ready(1)
    # The GPU process may be ready before the round trip has failed, which takes five seconds.
    wait_until(lambda: worker.events("session.listen_unsupported"), "the round trip to fail")
    wait_until(lambda: fleet.app.run("select id from worker.pods"), "the pod to register")
    (error,) = worker.events("session.listen_unsupported")
    assert error["level"] == "error"
    assert "DATABASE_LISTEN_URL" in error["hint"]
    (pod,) = fleet.app.run("select id, has_lock from worker.pods")
    assert not pod["has_lock"]
    assert fleet.app.one("select worker.lock_is_free(%s)", pod["id"])
    for _ in range(2):
        fleet.completed("echo", fleet.echo())
    # Its connection breaks and comes back: it does not log the error again.
    assert pooler.cut("likeness session") == 1
    wait_until(
        lambda: fleet.app.one(
            """select count(*) from pg_stat_activity where datname = current_database()
                 and application_name = 'likeness session' and query like 'unlisten%%'"""
        ),
        "the next round trip to fail",
    )
    fleet.completed("echo", fleet.echo())
    assert len(worker.events("session.listen_unsupported")) == 1
    assert [row["id"] for row in fleet.app.run("select id from worker.pods")] == [pod["id"]]


def test_a_pod_that_cannot_listen_learns_of_a_cancellation_by_its_heartbeat(fleet: Fleet) -> None:
    fleet.ready(1)
    job_id = fleet.echo(**LONG_ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    beats = set()

    def has_beaten_three_times() -> bool:
        beats.add(fleet.app.one("select last_heartbeat from worker.pods"))
        return len(beats) > 3

    wait_until(has_beaten_three_times, "heartbeats")
    assert max(beats) - min(beats) < 2 * timedelta(seconds=HEARTBEAT_EVERY_S), "more often than without a job"
    fleet.app.run("select public.cancel_job('echo', %s)", job_id)
    assert fleet.app.wait_for("echo", job_id)["status"] == "cancelled"

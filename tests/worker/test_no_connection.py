"""A handler that the database fails: its job is not at fault, and jobs on the GPU go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3_relay import S3Relay
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet
from worker.demo.servers import EmbeddedS3

LOGIN = "pod_with_few_connections"
OF_A_POD = 3
"""The session and two of the pool; none is left for a copy."""


@pytest.fixture(scope="module")
def relay(s3_server: EmbeddedS3) -> Iterator[S3Relay]:
    with S3Relay(s3_server.url()) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet, relay: S3Relay) -> Fleet:
    fleet = make_echo_fleet(S3_ENDPOINT_URL=relay.url, WORKER_KINDS="echo,publish_lora")
    fleet.app.run(f"create role {LOGIN} login in role likeness_worker connection limit {OF_A_POD}")
    fleet.environment["DATABASE_URL"] = fleet.app.url.replace("postgres@", f"{LOGIN}@")
    return fleet


def connections(fleet: Fleet) -> int:
    count: int = fleet.app.one("select count(*) from pg_stat_activity where usename = %s", LOGIN)
    return count


def test_a_copy_that_gets_no_connection_waits_and_keeps_none_from_the_gpu(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    wait_until(lambda: connections(fleet) == OF_A_POD, "the pod to have all its connections")
    copies = [fleet.copy_lora(fleet.app.add_subject()) for _ in range(2)]  # one for each of the light slots
    for copy in copies:
        wait_until(lambda copy=copy: fleet.app.job("publish_lora", copy)["status"] == "running", "the copy to start")
    for _ in range(3):
        fleet.completed("echo", fleet.echo())
    jobs = [fleet.app.job("publish_lora", copy) for copy in copies]
    assert [(job["status"], job["failures"], job["error_code"]) for job in jobs] == [("running", 0, None)] * 2
    fleet.app.run(f"alter role {LOGIN} connection limit {OF_A_POD + 2}")
    for copy in copies:
        job = fleet.completed("publish_lora", copy)
        assert (job["attempt"], job["failures"]) == (1, 0)
    assert worker.events("job.crashed") == []


def test_a_copy_whose_connection_is_lost_is_released_without_a_failure(fleet: Fleet, relay: S3Relay) -> None:
    fleet.app.run(f"alter role {LOGIN} connection limit {OF_A_POD + 2}")
    (worker,) = fleet.ready(1)
    person = fleet.app.add_subject()
    copying = relay.hold("PUT", f"/{person}/lora.safetensors", "before")
    copy = fleet.copy_lora(person)
    assert copying.reached.wait(60)
    ended = fleet.app.run(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s and state = 'idle in transaction'",
        LOGIN,
    )
    assert len(ended) == 1
    copying.let_go()
    job = fleet.completed("publish_lora", copy)
    assert (job["attempt"], job["failures"]) == (2, 0)
    assert [line["reason"] for line in worker.events("job.database_failed")] == ["AdminShutdown"]
    assert worker.events("job.crashed") == []

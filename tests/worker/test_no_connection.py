"""A handler that the database fails: its job is not at fault, and jobs on the GPU go on."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.s3_relay import S3Relay
from tests.waiting import wait_until
from tests.worker.conftest import Fleet, MakeFleet
from worker.demo.servers import EmbeddedS3

LOGIN = "pod_with_few_connections"
OF_A_POD = 3
"""The session and two of the pool; none is left for a copy."""


@pytest.fixture(scope="module")
def relay(s3_server: EmbeddedS3) -> Iterator[S3Relay]:
    with S3Relay(s3_server.url()) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, relay: S3Relay) -> Fleet:
    fleet = make_fleet(S3_ENDPOINT_URL=relay.url)
    fleet.app.run(f"create role {LOGIN} login in role likeness_worker connection limit {OF_A_POD}")
    fleet.environment["DATABASE_URL"] = fleet.app.url.replace("postgres@", f"{LOGIN}@")
    return fleet


def connections(fleet: Fleet) -> int:
    count: int = fleet.app.one("select count(*) from pg_stat_activity where usename = %s", LOGIN)
    return count


def copy_of(fleet: Fleet, person: UUID) -> UUID:
    copy: UUID = fleet.app.one("select id from worker.internal_jobs where subject_id = %s", person)
    return copy


def test_a_copy_that_gets_no_connection_waits_and_keeps_none_from_the_gpu(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    wait_until(lambda: connections(fleet) == OF_A_POD, "the pod to have all its connections")
    people = [fleet.person(), fleet.person()]
    for person in people:
        fleet.completed("training", fleet.train(subject_id=person))
    copies = [copy_of(fleet, person) for person in people]  # one for each of the light slots
    for copy in copies:
        wait_until(lambda copy=copy: fleet.app.job("publish_lora", copy)["status"] == "running", "the copy to start")
    for _ in range(3):
        fleet.completed("generation", fleet.draw())
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
    person = fleet.person()
    copying = relay.hold("PUT", f"/{person}/lora.safetensors", "before")
    fleet.completed("training", fleet.train(subject_id=person))
    assert copying.reached.wait(60)
    ended = fleet.app.run(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s and state = 'idle in transaction'",
        LOGIN,
    )
    assert len(ended) == 1
    copying.let_go()
    job = fleet.completed("publish_lora", copy_of(fleet, person))
    assert (job["attempt"], job["failures"]) == (2, 0)
    assert [line["reason"] for line in worker.events("job.database_failed")] == ["AdminShutdown"]
    assert worker.events("job.crashed") == []

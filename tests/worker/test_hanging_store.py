"""A store that accepts requests and never responds: the pod stays alive, does its housekeeping, and can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.s3_relay import S3Relay
from tests.waiting import wait_until
from tests.worker.conftest import Fleet, MakeFleet
from worker.demo.servers import EmbeddedS3


@pytest.fixture(scope="module")
def relay(s3_server: EmbeddedS3) -> Iterator[S3Relay]:
    with S3Relay(s3_server.url()) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, relay: S3Relay) -> Fleet:
    return make_fleet(S3_ENDPOINT_URL=relay.url)


def test_hanging_copies_in_every_slot_do_not_stop_the_heartbeat(fleet: Fleet, relay: S3Relay) -> None:
    """Each copy holds a transaction; on connections of the pool, no connection would be left."""
    fleet.ready(1)
    people = [fleet.person(), fleet.person()]
    copies = [relay.hold("PUT", f"/{person}/lora.safetensors", "before") for person in people]
    for person in people:
        fleet.completed("training", fleet.train(subject_id=person))
    for copy in copies:
        assert copy.reached.wait(60)
    last = fleet.app.one("select last_heartbeat from worker.pods")
    wait_until(lambda: fleet.app.one("select last_heartbeat from worker.pods") > last, "a heartbeat")
    fleet.completed("generation", fleet.draw())
    for copy in copies:
        copy.let_go()
    for row in fleet.app.run("select id from worker.internal_jobs"):
        fleet.completed("publish_lora", row["id"])


def test_a_hanging_sweep_does_not_prevent_the_detection_of_dead_pods(fleet: Fleet, relay: S3Relay) -> None:
    fleet.ready(1)
    sweep = relay.hold("POST", "?delete", "before")
    job_id = fleet.draw(steps=100, num_images=16)
    fleet.wait_for_phase("generation", job_id, "drawing")
    fleet.app.run(
        """insert into worker.staged_objects (bucket, key, kind, job_id, attempt, state)
           values (%s, 'garbage', 'generation', %s, 1, 'deleting')""",
        fleet.app.uploads,
        uuid4(),
    )
    assert sweep.reached.wait(60)
    dead = uuid4()
    fleet.app.run("select worker.register_pod(%s, 'dead', '{}', null, '{}', true, '0')", dead)
    wait_until(
        lambda: not fleet.app.run("select 1 from worker.pods where id = %s", dead), "the dead pod to be detected"
    )
    sweep.let_go()
    assert fleet.app.one("select public.cancel_job('generation', %s)", job_id) == "stopping"
    fleet.app.wait_for("generation", job_id)


def test_a_worker_with_a_hanging_store_stops_on_sigterm(fleet: Fleet, relay: S3Relay) -> None:
    """The worker does not wait for its threads that wait for the store."""
    (worker,) = fleet.ready(1)
    person = fleet.person()
    inputs = relay.hold("GET", f"{person}/photos/1.jpg", "before")
    job_id = fleet.train(subject_id=person)
    assert inputs.reached.wait(60)
    assert worker.terminate(20) == 0
    job = fleet.app.job("training", job_id)
    assert (job["status"], job["attempt"], job["failures"]) == ("queued", 1, 0)
    assert worker.gpu_pids() == []
    inputs.let_go()

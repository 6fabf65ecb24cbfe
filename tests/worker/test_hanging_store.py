"""A store that accepts requests and never responds: the pod stays alive and does its housekeeping."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

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
    return make_echo_fleet(S3_ENDPOINT_URL=relay.url, WORKER_KINDS="echo,publish_lora")


def test_hanging_copies_in_every_slot_do_not_stop_the_heartbeat(fleet: Fleet, relay: S3Relay) -> None:
    """Each copy holds a transaction; on connections of the pool, no connection would be left."""
    fleet.ready(1)
    people = [fleet.app.add_subject(), fleet.app.add_subject()]
    held = [relay.hold("PUT", f"/{person}/lora.safetensors", "before") for person in people]
    copies = [fleet.copy_lora(person) for person in people]
    for copy in held:
        assert copy.reached.wait(60)
    last = fleet.app.one("select last_heartbeat from worker.pods")
    wait_until(lambda: fleet.app.one("select last_heartbeat from worker.pods") > last, "a heartbeat")
    fleet.completed("echo", fleet.echo())
    for copy in held:
        copy.let_go()
    for job_id in copies:
        fleet.completed("publish_lora", job_id)


def test_a_hanging_sweep_does_not_prevent_the_detection_of_dead_pods(fleet: Fleet, relay: S3Relay) -> None:
    fleet.ready(1)
    sweep = relay.hold("POST", "?delete", "before")
    job_id = fleet.echo(**LONG_ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    fleet.app.run(
        """insert into worker.staged_objects (bucket, key, kind, job_id, attempt, state)
           values (%s, 'garbage', 'echo', %s, 1, 'deleting')""",
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
    assert fleet.app.one("select public.cancel_job('echo', %s)", job_id) == "stopping"
    fleet.app.wait_for("echo", job_id)

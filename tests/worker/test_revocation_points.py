"""Consent is revoked at every point of a job's life; the control is the same point without a revocation.

A gate in the database or a relay in front of the store holds the worker at the point. The revocation commits, or waits
for the worker's own statement, and only then the worker continues. The job is published only in the control.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.app import App
from tests.gates import Gate, wait_until_blocked
from tests.s3_relay import S3Relay, When
from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.pictures import picture, png
from tests.worker.studio import Studio

LONG = {"training": {"steps": 10_000}, "generation": {"steps": 100, "num_images": 16}}
"""Long enough for a heartbeat, which carries the progress, in the middle."""


@dataclass
class Stage:
    """The studio's worker, and the LoRA that every person of these tests gets."""

    fleet: Fleet
    relay: S3Relay
    lora: dict[str, Any]
    gpu_pids: list[int]

    @property
    def app(self) -> App:
        return self.fleet.app

    def request(self, what: str, job_id: UUID, subject: UUID, **columns: object) -> None:
        """Request a job of the person or, as a reference, a picture of another one that refers to the person."""
        if what == "reference":
            columns = {"reference_paths": [f"{self.app.owner}/{subject}/photos/face.png"], **columns}
            subject = self.person("generation")
        if what == "training":
            self.fleet.train(id=job_id, subject_id=subject, **columns)
        else:
            self.app.request("generation", id=job_id, subject_id=subject, prompt="in a garden", **columns)

    def person(self, what: str) -> UUID:
        """Add a person with consent, and with photos, a LoRA or one picture, as is needed."""
        if what == "training":
            return self.fleet.person()
        subject = self.app.add_subject()
        if what == "reference":
            key = f"{self.app.owner}/{subject}/photos/face.png"
            self.app.s3.put_object(Bucket=self.app.uploads, Key=key, Body=png(picture(1)))
            return subject
        self.app.run(
            """insert into public.subjects_models (subject_id, version, base, family, path, sha256, rank, trigger_word)
               values (%s, 1, %s, %s, %s, %s, %s, %s)""",
            *(subject, TINY_BASE, self.lora["family"], self.lora["path"], self.lora["sha256"]),
            *(self.lora["rank"], self.lora["trigger_word"]),
        )
        return subject


@pytest.fixture(scope="module")
def stage(studio: Studio) -> Stage:
    fleet = studio.fleet
    trained = fleet.completed("training", fleet.train())["result"]
    (lora,) = fleet.app.run("select * from public.subjects_models where id = %s", trained["model_id"])
    return Stage(fleet, studio.store, lora, fleet.living()[0].gpu_pids())


@dataclass
class Scene:
    """One job at one point. `revoked` is False in the control."""

    stage: Stage
    what: str
    """What the person is for: a training, a generation, or a reference in a generation of another person."""
    job_id: UUID
    subject: UUID
    revoked: bool
    columns: dict[str, object]

    @property
    def app(self) -> App:
        return self.stage.app

    @property
    def kind(self) -> str:
        return "generation" if self.what == "reference" else self.what

    def request(self, **columns: object) -> None:
        self.stage.request(self.what, self.job_id, self.subject, **{**self.columns, **columns})

    def revoke(self) -> None:
        """Revoke consent, except in the control, in a transaction that commits before this returns."""
        if self.revoked:
            with psycopg.connect(self.app.url, autocommit=True) as connection:
                connection.execute("select public.revoke_consent(%s)", [self.subject])

    @contextmanager
    def revoking(self) -> Iterator[None]:
        """Revoke in the background: it waits for a statement of the worker that continues inside this context."""
        thread = threading.Thread(target=self.revoke)
        thread.start()
        if self.revoked:
            wait_until_blocked(self.app, "revoke_consent")
        yield
        thread.join(30)
        assert not thread.is_alive()

    @contextmanager
    def holding_the_person(self) -> Iterator[psycopg.Connection[Any]]:
        """Hold a transaction that has locked the person, as a revocation has just before it commits."""
        with psycopg.connect(self.app.url) as connection:
            connection.execute("select from public.subjects where id = %s for no key update", [self.subject])
            yield connection
            if self.revoked:
                connection.execute("select public.revoke_consent(%s)", [self.subject])
            connection.commit()


# -- the points


def queued(scene: Scene) -> None:
    scene.request(run_after="tomorrow")
    scene.revoke()
    # Let its delay pass.
    scene.app.run(
        "update worker.pgqueuer set execute_after = now() where dedupe_key = %s", f"{scene.kind}:{scene.job_id}"
    )
    scene.app.run("notify likeness_queue")


def claimed(scene: Scene) -> None:
    with scene.holding_the_person():
        scene.request()
        wait_until_blocked(scene.app, "start_job")


def mid_step(scene: Scene) -> None:
    if scene.revoked:
        scene.columns = LONG[scene.kind]
    scene.request()
    if scene.revoked:
        wait_until(lambda: scene.app.job(scene.kind, scene.job_id)["progress"] > 0, "progress in the middle")
        assert scene.app.job(scene.kind, scene.job_id)["status"] == "running"
    scene.revoke()


def at_gate(phase: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        with Gate(scene.app, scene.job_id, phase) as gate:
            scene.request()
            gate.wait_reached()
            with scene.revoking():
                gate.open()

    return act


def at_store(method: str, part: str, when: When) -> Callable[[Scene], None]:
    """`part` is a part of a key of the job or of an input."""

    def act(scene: Scene) -> None:
        path = part.format(subject=scene.subject, job=scene.job_id, lora=scene.stage.lora["path"])
        held = scene.stage.relay.hold(method, path, when)
        scene.request()
        assert held.reached.wait(60)
        scene.revoke()
        if scene.revoked:
            # The worker learns of the stop without waiting for the store.
            scene.app.wait_for(scene.kind, scene.job_id)
        held.let_go()
        assert held.over.wait(30)

    return act


def publishing(scene: Scene) -> None:
    held = scene.stage.relay.hold("PUT", LAST_FILE[scene.kind].format(job=scene.job_id), "response")
    scene.request()
    assert held.reached.wait(60)
    with scene.holding_the_person():
        held.let_go()
        wait_until_blocked(scene.app, "complete_job")


LAST_FILE = {"training": "/{job}/1/losses.json", "generation": "/{job}/1/0.raw.png"}
FIRST_FILE = {"training": "/{job}/1/lora.safetensors", "generation": "/{job}/1/0.png"}
INPUT = {"training": "{subject}/photos/2.jpg", "generation": "{lora}", "reference": "{subject}/photos/face.png"}
AFTER_LOADING = {"training": "encoding photos", "generation": "reading the prompt"}
COMPUTED = {"training": "uploading", "generation": "encoding"}


def points(what: str) -> dict[str, Callable[[Scene], None]]:
    kind = "generation" if what == "reference" else what
    return {
        "queued": queued,
        "claimed": claimed,
        "started": at_gate("start"),
        "fetching inputs": at_store("GET", INPUT[what], "half"),
        "inputs fetched": at_gate("loading the models"),
        "model loaded": at_gate(AFTER_LOADING[kind]),
        "mid-step": mid_step,
        "computed": at_gate(COMPUTED[kind]),  # upscaled; the LoRA's file is written
        "staged": at_store("PUT", FIRST_FILE[kind], "before"),
        "half uploaded": at_store("PUT", LAST_FILE[kind], "half"),
        "uploaded": at_store("PUT", LAST_FILE[kind], "response"),
        "publishing": publishing,
    }


REFERENCE_POINTS = ("queued", "claimed", "mid-step", "publishing")
"""Of a person who is only a reference: before the start, at the start, while it runs, and at publication."""


AS_OF_A_TRAINING = ("queued", "claimed", "started", "staged", "half uploaded", "uploaded")
"""Points of a generation at which the same lines run as at a training's."""


def run_scene(stage: Stage, what: str, point: str, *, revoked: bool) -> Scene:
    scene = Scene(stage, what, uuid4(), stage.person(what), revoked, {})
    points(what)[point](scene)
    return scene


def models_of(scene: Scene) -> int:
    count: int = scene.app.one("select count(*) from public.subjects_models where subject_id = %s", scene.subject)
    return count


def assert_refused(scene: Scene) -> None:
    """No row shows a result of this job."""
    job = scene.app.wait_for(scene.kind, scene.job_id)
    assert (job["status"], job["error_code"], job["result"]) == ("failed", "consent_denied", None)
    assert models_of(scene) == (1 if scene.what == "generation" else 0)
    states = scene.app.run("select state from worker.staged_objects where job_id = %s", scene.job_id)
    assert {row["state"] for row in states} <= {"deleting"}
    events = scene.app.events(scene.job_id)
    assert (events.count("failed"), events.count("completed"), events.count("requeued")) == (1, 0, 0)
    ledger = "select count(*) from worker.consent_events where subject_id = %s and job_id = %s and event = 'refusal'"
    assert scene.app.one(ledger, scene.subject, scene.job_id) == 1
    assert scene.app.one("select count(*) from worker.internal_jobs where subject_id = %s", scene.subject) == 0


def assert_published(scene: Scene) -> None:
    job = scene.app.wait_for(scene.kind, scene.job_id)
    assert (job["status"], job["error"], job["attempt"]) == ("completed", None, 1)
    assert models_of(scene) == (0 if scene.what == "reference" else 1)
    keys = [LAST_FILE[scene.kind], FIRST_FILE[scene.kind]]
    published = scene.stage.fleet.published(scene.job_id)
    for key in keys:
        assert any(f"/{name}".endswith(key.format(job=scene.job_id)) for name in published)
    scene.stage.fleet.wait_swept(scene.job_id)


def assert_nothing_stored(scene: Scene) -> None:
    """Also objects that reached the store after a sweep are deleted by the next one."""
    scene.app.run(
        "update worker.staged_objects set offer_after = now() where job_id = %s and state = 'deleting'", scene.job_id
    )
    wait_until(lambda: not scene.stage.fleet.stored(scene.job_id), "the objects of the refused job to be deleted")
    copies = [key for key in scene.app.keys(scene.app.models) if key.startswith(f"{scene.subject}/")]
    assert copies == []


@pytest.mark.parametrize(
    ("what", "point"),
    [
        *(("training", point) for point in points("training")),
        *(("generation", point) for point in points("generation") if point not in AS_OF_A_TRAINING),
        *(("reference", point) for point in REFERENCE_POINTS),
    ],
)
def test_a_job_is_published_unless_consent_was_revoked_before(stage: Stage, what: str, point: str) -> None:
    refused = run_scene(stage, what, point, revoked=True)
    assert_refused(refused)
    control = run_scene(stage, what, point, revoked=False)
    assert_published(control)
    assert_nothing_stored(refused)
    assert stage.fleet.living()[0].gpu_pids() == stage.gpu_pids, "it was not killed: it stopped within a step"


@pytest.mark.parametrize("when", ["before", "response"])
def test_a_convenience_copy_does_not_outlive_consent_or_block_its_revocation(stage: Stage, when: When) -> None:
    subject = stage.person("training")
    target = f"{subject}/lora.safetensors"
    held = stage.relay.hold("PUT", f"/{stage.app.models}/{target}", when)
    stage.fleet.completed("training", stage.fleet.train(subject_id=subject))
    assert held.reached.wait(60)
    stage.app.run("select public.revoke_consent(%s)", subject)
    held.let_go()
    (copying,) = stage.app.run("select id from worker.internal_jobs where subject_id = %s", subject)
    assert stage.fleet.completed("publish_lora", copying["id"])["result"] == {"copied": None}
    assert target not in stage.app.keys(stage.app.models)

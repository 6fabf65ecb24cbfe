"""A person who is only a reference in somebody else's picture must consent too: at each of the four points."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.pod import Attempt, Pod
from tests.sql.tables import ABLE_BASE, AppTables

ROUTE = f"generation/{ABLE_BASE}+ip-adapter-flux"


@dataclass
class Scene:
    """A job with a LoRA of one person and a reference of another, whose consent ends."""

    db: AppTables
    pod: Pod
    reference: UUID

    def insert(self) -> UUID:
        ada = self.db.add_subject(name="Ada")
        return self.db.request(
            "generation",
            subject_id=ada,
            base=ABLE_BASE,
            model_ids=[self.db.add_lora(ada)],
            prompt="two friends",
            reference_paths=[f"{self.db.owner}/{self.reference}/photos/0.jpg"],
        )

    def start(self, job: UUID) -> Attempt | None:
        assert self.pod.claim() == ("generation", job)
        return self.pod.start("generation", job)

    def running(self) -> Attempt:
        attempt = self.start(self.insert())
        assert attempt is not None
        return attempt

    def end_consent(self) -> None:
        """Let it expire, which nothing notices by itself: each point asks anew."""
        self.db.let_consent_expire(self.reference)


@pytest.fixture
def scene(db: AppTables, pod: Pod) -> Scene:
    pod.register(ROUTE)
    return Scene(db, pod, db.add_subject(name="Ben"))


def assert_refused(scene: Scene, job: UUID) -> None:
    assert scene.db.status("generation", job) == ("failed", "consent_denied")
    (refusal,) = scene.db.ledger(scene.reference, "refusal")
    assert refusal["job_id"] == job


def test_with_consent_the_job_is_published(scene: Scene) -> None:
    attempt = scene.running()
    assert scene.pod.heartbeat(attempt)["leases"][0]["state"] == "ok"
    assert attempt.publish() == "ok"


def test_at_insert(scene: Scene) -> None:
    scene.end_consent()
    assert_refused(scene, scene.insert())


def test_at_start(scene: Scene) -> None:
    job = scene.insert()
    scene.end_consent()
    assert scene.start(job) is None
    assert_refused(scene, job)


def test_while_it_runs(scene: Scene) -> None:
    attempt = scene.running()
    scene.end_consent()
    scene.db.tick()
    assert scene.pod.heartbeat(attempt)["leases"][0]["state"] == "cancel"
    attempt.release("stopped")
    assert_refused(scene, attempt.id)


def test_at_publication(scene: Scene) -> None:
    attempt = scene.running()
    result = attempt.staged_result()
    scene.end_consent()
    assert attempt.complete(result) == "consent_denied"
    assert_refused(scene, attempt.id)


def test_a_waiting_job_is_not_prefetched_either(scene: Scene) -> None:
    scene.insert()
    assert len(scene.pod.call("peek", [ROUTE], 5)) == 1
    scene.end_consent()
    assert scene.pod.call("peek", [ROUTE], 5) == []


def test_a_reference_of_another_owner_is_refused_without_saying_whether_it_exists(scene: Scene) -> None:
    stranger = scene.db.add_user(uuid4())
    foreign = scene.db.add_subject(owner=stranger)
    for key in (f"{stranger}/{foreign}/photos/0.jpg", f"{scene.db.owner}/{foreign}/photos/0.jpg"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="reference_paths: "):
            scene.db.request(
                "generation", owner_id=scene.db.owner, base=ABLE_BASE, model_ids=[], prompt="x", reference_paths=[key]
            )

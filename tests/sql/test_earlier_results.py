"""The cache of results: whose earlier result may answer an identical request, and what ends that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.sql.pod import Attempt, Pod
from tests.sql.tables import AppTables

FINGERPRINT = "a" * 64


@dataclass
class Scene:
    """Requests for pictures of one person with a LoRA of theirs."""

    db: AppTables
    pod: Pod
    subject: UUID
    lora: UUID

    def running(self, owner: UUID | None = None, **columns: object) -> Attempt:
        request = {"subject_id": self.subject, "model_ids": [self.lora], "prompt": "at the sea", **columns}
        job = self.db.request("generation", owner_id=owner or self.db.owner, **request)
        assert self.pod.claim() == ("generation", job)
        attempt = self.pod.start("generation", job)
        assert attempt is not None
        return attempt

    def found(self, attempt: Attempt, fingerprint: str = FINGERPRINT) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = attempt.call("find_result", fingerprint)
        return answer

    def published(self, **columns: object) -> Attempt:
        attempt = self.running(**columns)
        assert self.found(attempt) is None
        assert attempt.publish() == "ok"
        return attempt


@pytest.fixture
def scene(db: AppTables, pod: Pod) -> Scene:
    subject = db.add_subject()
    return Scene(db, pod, subject, db.add_lora(subject))


def test_an_identical_request_finds_the_earlier_result_and_its_objects(scene: Scene) -> None:
    earlier, later = scene.published(), scene.running()
    found = scene.found(later)
    assert found is not None
    job = scene.db.job("generation", earlier.id)
    assert (found["job_id"], found["result"]) == (str(earlier.id), job["result"])
    (picture,) = job["result"]["pictures"]
    assert {(item["bucket"], item["key"]) for item in found["objects"]} == {
        ("uploads", picture["upscaled"]),
        ("uploads", picture["raw"]),
    }
    assert scene.found(later, "b" * 64) is None


def test_a_result_in_a_bucket_of_before_a_move_is_not_found(scene: Scene) -> None:
    scene.published()
    scene.db.run("update worker.config set bucket_uploads = 'staging-uploads'")
    assert scene.found(scene.running()) is None


def test_a_job_that_runs_or_failed_answers_none(scene: Scene) -> None:
    failed, running = scene.running(), scene.running()
    for attempt in (failed, running):
        assert scene.found(attempt) is None
    failed.fail("invalid_input")
    assert scene.found(scene.running()) is None


def test_an_attempt_that_lost_its_lease_finds_nothing(scene: Scene) -> None:
    scene.published()
    later = scene.running()
    later.release("stopped")
    assert scene.found(later) is None


def test_a_revoked_person_is_never_served(scene: Scene) -> None:
    scene.published()
    later = scene.running()
    scene.db.let_consent_expire(scene.subject)
    assert scene.found(later) is None


def test_a_person_who_is_not_in_the_request_is_not_served(scene: Scene) -> None:
    """Whatever made the fingerprints equal."""
    scene.published()
    later = scene.running(subject_id=None, model_ids=[])
    assert scene.found(later) is None


def test_a_retired_lora_is_not_served(scene: Scene) -> None:
    scene.published()
    later = scene.running()
    scene.db.run("update public.subjects_models set retired_at = now() where id = %s", scene.lora)
    assert scene.found(later) is None


def test_what_was_deleted_is_not_served(scene: Scene) -> None:
    earlier = scene.published()
    scene.db.run(
        "update worker.staged_objects set state = 'deleting' where job_id = %s and key like '%%raw%%'", earlier.id
    )
    assert scene.found(scene.running()) is None


def test_another_owner_is_not_served(scene: Scene) -> None:
    scene.published(subject_id=None, model_ids=[])
    stranger = scene.db.add_user(uuid4())
    assert scene.found(scene.running(owner=stranger, subject_id=None, model_ids=[])) is None
    assert scene.found(scene.running(subject_id=None, model_ids=[])) is not None

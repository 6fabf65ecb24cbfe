"""While its GPU is busy, a pod fetches what the next job needs, and keeps it only while the person consents."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet
from tests.worker.pictures import picture, png
from worker.ml import models
from worker.ml.guides.tiny import ip_adapter
from worker.models import UPSCALERS
from worker.models.manifest import MANIFEST
from worker.models.push import Push
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

PHOTOS = 4
GUIDE = "ip-adapter-flux"


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def disk(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for slug in (*UPSCALERS.values(), TINY_BASE):
        (folder / slug).symlink_to(tiny_models / slug)
    return folder


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet, work_dir: Path, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A guide for references is in the bucket, and not on the pod's disk."""
    kinds = "echo,training,generation"
    fleet = make_echo_fleet(WORKER_KINDS=kinds, MODELS_DIR=str(disk), WORK_DIR=str(work_dir))
    fleet.app.run("update worker.guides set vram_gib = 0")
    can_more = "update worker.base_models set capabilities = capabilities || '{reference}' where slug = %s"
    fleet.app.run(can_more, TINY_BASE)
    pushed = tmp_path_factory.mktemp("pushed")
    ip_adapter.build_tiny(pushed / GUIDE, models.load(disk / TINY_BASE))
    asyncio.run(push(fleet, pushed))
    return fleet


async def push(fleet: Fleet, models_dir: Path) -> None:
    server = fleet.app.s3_server
    store = ObjectStore(StoreConfig(server.url(), server.region, server.access_key_id, server.secret_access_key))
    pushing = Push(models_dir, GUIDE, store, fleet.app.models)
    await pushing.run(await pushing.check(), lambda _: None)
    await store.close()


def prefetched(work_dir: Path, subject: UUID, purpose: str = "training") -> list[Path]:
    return list(work_dir.glob(f"*/subjects/{subject}/{purpose}/prefetched/*"))


def busy(fleet: Fleet) -> UUID:
    """Keep the one pod's GPU busy, and the CPU idle; returns the job."""
    fleet.ready(1)
    job_id = fleet.echo(times=1000, pause_ms=100)
    fleet.wait_for_phase("echo", job_id, "echoing")
    return job_id


def cancel(fleet: Fleet, job_id: UUID) -> None:
    fleet.app.run("select public.cancel_job('echo', %s)", job_id)
    fleet.app.wait_for("echo", job_id)


def finished(fleet: Fleet, job_id: UUID, kind: str = "training") -> dict[str, Any]:
    fleet.completed(kind, job_id)
    fleet.wait_for_outcomes(job_id, 1)
    (line,) = [line for line in fleet.living()[0].events("job.finished") if line["job_id"] == str(job_id)]
    return line


def test_a_training_uses_the_photos_that_were_fetched_while_it_waited(fleet: Fleet, work_dir: Path) -> None:
    running, subject = busy(fleet), fleet.person()
    waiting = fleet.train(subject_id=subject)
    wait_until(lambda: len(prefetched(work_dir, subject)) == PHOTOS, "the photos")
    cancel(fleet, running)
    assert finished(fleet, waiting)["bytes_in"] == 0
    assert prefetched(work_dir, subject) == []


def test_a_photo_that_changed_after_it_was_fetched_is_fetched_again(fleet: Fleet, work_dir: Path) -> None:
    running, subject = busy(fleet), fleet.person()
    waiting = fleet.train(subject_id=subject)
    wait_until(lambda: len(prefetched(work_dir, subject)) == PHOTOS, "the photos")
    key = f"{fleet.app.owner}/{subject}/photos/0.jpg"
    body = fleet.app.read(fleet.app.uploads, key.replace("0.jpg", "1.jpg")) + b"\0"
    fleet.app.s3.put_object(Bucket=fleet.app.uploads, Key=key, Body=body)
    cancel(fleet, running)
    assert finished(fleet, waiting)["bytes_in"] == len(body)


@pytest.mark.parametrize(
    "loss", ["select public.revoke_consent(%s)", "select public.grant_consent(%s, '{generation}')"]
)
def test_files_of_a_person_who_consents_no_longer_are_deleted(fleet: Fleet, work_dir: Path, loss: str) -> None:
    running, subject = busy(fleet), fleet.person()
    waiting = fleet.train(subject_id=subject)
    wait_until(lambda: len(prefetched(work_dir, subject)) == PHOTOS, "the photos")
    fleet.app.run(loss, subject)
    wait_until(lambda: not list(work_dir.glob(f"*/subjects/{subject}/training")), "the files to be deleted")
    assert fleet.app.job("training", waiting)["error_code"] == "consent_denied"
    cancel(fleet, running)


# -- references


def refer(fleet: Fleet, *people: UUID) -> UUID:
    """Request a picture that refers to one photo of each of these people."""
    keys = [f"{fleet.app.owner}/{person}/photos/face.png" for person in people]
    for number, key in enumerate(keys):
        fleet.app.s3.put_object(Bucket=fleet.app.uploads, Key=key, Body=png(picture(number)))
    return fleet.draw(reference_paths=keys)


def test_references_are_fetched_into_the_cache_of_the_person_that_each_shows_and_their_guide_to_the_disk(
    fleet: Fleet, work_dir: Path, disk: Path
) -> None:
    running, people = busy(fleet), [fleet.app.add_subject() for _ in range(2)]
    assert not (disk / GUIDE).exists()
    waiting = refer(fleet, *people)
    wait_until(
        lambda: all(len(prefetched(work_dir, person, "generation")) == 1 for person in people), "both references"
    )
    wait_until((disk / GUIDE / MANIFEST).exists, "the guide")
    cancel(fleet, running)
    assert finished(fleet, waiting, "generation")["bytes_in"] == 0
    assert [prefetched(work_dir, person, "generation") for person in people] == [[], []]


def test_a_reference_of_a_person_who_consents_no_longer_is_deleted_alone(fleet: Fleet, work_dir: Path) -> None:
    running, (stays, leaves) = busy(fleet), [fleet.app.add_subject() for _ in range(2)]
    waiting = refer(fleet, stays, leaves)
    wait_until(lambda: prefetched(work_dir, leaves, "generation"), "the references")
    fleet.app.run("select public.revoke_consent(%s)", leaves)
    wait_until(lambda: not list(work_dir.glob(f"*/subjects/{leaves}/generation")), "the reference to be deleted")
    assert len(prefetched(work_dir, stays, "generation")) == 1
    assert fleet.app.job("generation", waiting)["error_code"] == "consent_denied"
    cancel(fleet, running)

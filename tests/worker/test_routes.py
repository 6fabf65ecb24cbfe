"""Pods with different models: each claims only jobs that it can run, and a stranded job says why.

One of the two has a damaged base too: its jobs are requeued for the other pod, without counting a failure.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path
from uuid import UUID

import pytest
import structlog.testing

from tests.app import App
from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet, damage
from tests.worker.fleet import Fleet
from worker.models import UPSCALERS, BaseModels
from worker.models.push import Push
from worker.queue import Worker
from worker.settings import Settings
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

LEFT, RIGHT, NOWHERE, LARGE = "tiny-left", "tiny-right", "tiny-nowhere", "tiny-large"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the disks of the pods."""
    return tmp_path_factory.mktemp("disks")


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, tiny_models: Path, folder: Path) -> Fleet:
    """Two pods, each with a base that the other lacks. The left one's tiny base cannot be loaded."""
    fleet = make_fleet()
    for slug, needed_gib in ((LEFT, 0), (RIGHT, 0), (NOWHERE, 0), (LARGE, 24)):
        fleet.app.run(
            """insert into worker.base_models (slug, family, capabilities, defaults, min_vram_gib, licence,
                 commercial_use)
               select %s, family, capabilities, defaults, %s, licence, commercial_use
               from worker.base_models where slug = %s""",
            slug,
            needed_gib,
            TINY_BASE,
        )
    for name, bases in (("left", (LEFT,)), ("right", (RIGHT, LARGE))):
        disk = disk_with(tiny_models, folder / name, *bases)
        if name == "left":
            damage(shutil.copytree(tiny_models / TINY_BASE, disk / TINY_BASE))
        fleet.start(ready=False, MODELS_DIR=str(disk), WORK_DIR=str(folder / f"work-{name}"), WORKER_NAME=name)
    fleet.ready(2)
    return fleet


def disk_with(tiny_models: Path, disk: Path, *bases: str) -> Path:
    """Create a MODELS_DIR with the upscalers, and with the tiny base under these names."""
    disk.mkdir()
    for slug in UPSCALERS.values():
        (disk / slug).symlink_to(tiny_models / slug)
    for base in bases:
        (disk / base).symlink_to(tiny_models / TINY_BASE)
    return disk


def pods_of(fleet: Fleet, job: UUID) -> list[str]:
    """Return the names of the pods that started a job."""
    rows = fleet.app.run(
        "select detail ->> 'pod' as name from worker.job_events where job_id = %s and event = 'started'", job
    )
    return [row["name"] for row in rows]


def test_each_pod_runs_only_jobs_whose_base_it_has(fleet: Fleet) -> None:
    jobs = {(base, fleet.draw(base=base)) for base in (LEFT, RIGHT, LEFT, RIGHT)}
    for base, job in jobs:
        fleet.completed("generation", job)
        assert pods_of(fleet, job) == [base.removeprefix("tiny-")]


def test_a_job_whose_base_needs_too_much_memory_waits_and_says_why(fleet: Fleet) -> None:
    job = fleet.draw(base=LARGE)
    why = "tiny-large needs 24 GiB of free GPU memory to train and to generate; no live pod has a GPU that is ready"
    phase = f"waiting: no live pod can take this: {why}"
    wait_until(lambda: fleet.app.job("generation", job)["phase"] == phase, "the job to say why it waits")
    assert fleet.app.run("select id, route, why from worker.stranded_jobs") == [
        {"id": job, "route": "generation/tiny-large", "why": why}
    ]


def test_a_model_pushed_while_pods_run_is_detected(fleet: Fleet, tiny_models: Path, tmp_path: Path) -> None:
    job = fleet.draw(base=NOWHERE)
    why = f"{NOWHERE} not found on a live pod or in the bucket: worker models push {NOWHERE}"
    phase = f"waiting: no live pod can take this: {why}"
    wait_until(lambda: fleet.app.job("generation", job)["phase"] == phase, "the job to say why it waits")
    shutil.copytree(
        tiny_models / TINY_BASE, tmp_path / NOWHERE
    )  # not a link, because a push writes a manifest into the folder
    asyncio.run(push(fleet, tmp_path))
    fleet.completed("generation", job)
    assert fleet.app.one("select count(*) from worker.stranded_jobs where id = %s", job) == 0


def routes_of(fleet: Fleet, name: str) -> list[str]:
    routes: list[str] = fleet.app.one("select routes from worker.pods where name = %s", name)
    return routes


def test_a_damaged_base_withdraws_the_route_and_the_job_fails_if_no_other_pod_has_it(fleet: Fleet) -> None:
    assert f"generation/{TINY_BASE}" in routes_of(fleet, "left")
    job = fleet.app.wait_for("generation", fleet.draw())
    assert (job["status"], job["error_code"]) == ("failed", "model_missing")
    assert (job["attempt"], job["failures"]) == (1, 0)
    assert TINY_BASE in job["error"]
    assert f"generation/{TINY_BASE}" not in routes_of(fleet, "left")
    assert f"training/{TINY_BASE}" in routes_of(fleet, "left")


def test_a_stranded_job_waits_and_says_why_until_a_pod_can_run_it(
    fleet: Fleet, tiny_models: Path, folder: Path
) -> None:
    job_id = fleet.draw()
    why = f"the pods that have {TINY_BASE} do not offer generation/{TINY_BASE}: their logs say why"
    waiting = f"waiting: no live pod can take this: {why}"
    wait_until(lambda: fleet.app.job("generation", job_id)["phase"] == waiting, "the job to say why it waits")
    (folder / "right" / TINY_BASE).symlink_to(tiny_models / TINY_BASE)
    fleet.app.run("update worker.base_models set licence = 'none' where slug = %s", TINY_BASE)  # pods look again
    job = fleet.completed("generation", job_id)
    assert (job["attempt"], job["failures"], job["error_code"]) == (1, 0, None)


def test_a_job_requeued_for_a_missing_base_is_done_by_another_pod_without_a_failure(fleet: Fleet, folder: Path) -> None:
    busy = fleet.draw(steps=100, num_images=16)
    fleet.wait_for_phase("generation", busy, "drawing")  # only the right pod still has the generation route
    shutil.rmtree(folder / "left" / TINY_BASE)
    job_id = fleet.train()
    wait_until(lambda: "requeued" in fleet.app.events(job_id), "the left pod to requeue it")
    requeued = fleet.app.job("training", job_id)
    assert (requeued["status"], requeued["error_code"]) == ("queued", "model_missing")
    assert "worker models" in requeued["error"]
    fleet.app.run("select public.cancel_job('generation', %s)", busy)
    job = fleet.completed("training", job_id)
    assert (job["attempt"], job["failures"], job["error_code"]) == (2, 0, None)
    assert not [route for route in routes_of(fleet, "left") if route.endswith(f"/{TINY_BASE}")]
    assert f"generation/{LEFT}" in routes_of(fleet, "left")


def worker_here(database_url: str, models_dir: Path) -> Worker:
    """A worker in this process, which has not started anything."""
    settings = Settings(
        _env_file=None,
        database_url=database_url,
        s3_endpoint_url="http://127.0.0.1:9",
        s3_region="nowhere",
        s3_access_key_id="none",
        s3_secret_access_key="none",
        models_dir=models_dir,
    )
    return Worker(settings)


async def test_a_pod_without_gpu_routes_logs_why(
    app: App, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.run("update worker.base_models set min_vram_gib = 9000")

    async def without_a_bucket(_: BaseModels) -> bool:
        return False

    monkeypatch.setattr(BaseModels, "can_fetch", without_a_bucket)
    too_little = f"{TINY_BASE} needs 9000 GiB of free GPU memory to train and to generate; this pod has no GPU"
    for models_dir, why in ((tmp_path, "is on this disk"), (tiny_models, too_little)):
        worker = worker_here(app.url, models_dir)
        async with worker._database:
            with structlog.testing.capture_logs() as logged:
                await worker._registration.gpu_is_ready(None)
        (warning,) = [line for line in logged if line["event"] == "routes.gpu_unavailable"]
        assert why in warning["reason"]


async def test_a_failing_models_volume_does_not_change_the_routes(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared volume that was unavailable for a moment once ended the process with all its jobs."""
    worker = worker_here(database_url, tmp_path)

    def fail(_: BaseModels) -> list[str]:
        raise OSError(errno.ESTALE, "Stale file handle", str(tmp_path))

    async with worker._database:
        await worker._registration.refresh_routes()
        before = dict(worker._routes.slot_of)
        monkeypatch.setattr(BaseModels, "present", fail)
        with structlog.testing.capture_logs() as logged:
            await worker._registration.refresh_routes()
    assert worker._routes.slot_of == before == {"publish_lora": "light"}
    assert [(line["event"], "Stale file handle" in line["reason"]) for line in logged] == [
        ("routes.refresh_failed", True)
    ]


async def push(fleet: Fleet, models_dir: Path) -> None:
    server = fleet.app.s3_server
    store = ObjectStore(StoreConfig(server.url(), server.region, server.access_key_id, server.secret_access_key))
    pushing = Push(models_dir, NOWHERE, store, fleet.app.models)
    await pushing.run(await pushing.check(), lambda _: None)
    await store.close()

"""A pod whose base model is missing or damaged: the job is requeued for another pod, without counting a failure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from tests.worker.conftest import Fleet, MakeFleet, copy_with_a_damaged_base


@pytest.fixture(scope="module")
def models_dir(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with_a_damaged_base(tiny_models, tmp_path_factory.mktemp("damaged") / "models")


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, models_dir: Path) -> Fleet:
    """One pod whose base cannot be loaded although its folder looks complete."""
    fleet = make_fleet()
    fleet.start(MODELS_DIR=str(models_dir), WORKER_NAME="damaged")
    return fleet


def routes_of(fleet: Fleet, name: str) -> list[str]:
    routes: list[str] = fleet.app.one("select routes from worker.pods where name = %s", name)
    return routes


def test_a_damaged_base_withdraws_the_route_and_the_job_fails_if_no_other_pod_has_it(fleet: Fleet) -> None:
    assert f"generation/{TINY_BASE}" in routes_of(fleet, "damaged")
    job = fleet.app.wait_for("generation", fleet.draw())
    assert (job["status"], job["error_code"]) == ("failed", "model_missing")
    assert (job["attempt"], job["failures"]) == (1, 0)
    assert TINY_BASE in job["error"]
    assert f"generation/{TINY_BASE}" not in routes_of(fleet, "damaged")
    assert f"training/{TINY_BASE}" in routes_of(fleet, "damaged")


def test_a_stranded_job_waits_and_says_why_until_a_pod_can_run_it(fleet: Fleet) -> None:
    job_id = fleet.draw()
    why = f"the pods that have {TINY_BASE} do not offer generation/{TINY_BASE}: their logs say why"
    waiting = f"waiting: no live pod can take this: {why}"
    wait_until(lambda: fleet.app.job("generation", job_id)["phase"] == waiting, "the job to say why it waits")
    fleet.start(WORKER_NAME="complete")
    job = fleet.completed("generation", job_id)
    assert (job["attempt"], job["failures"], job["error_code"]) == (1, 0, None)


def test_a_job_requeued_for_a_missing_base_is_done_by_another_pod_without_a_failure(
    fleet: Fleet, models_dir: Path
) -> None:
    busy = fleet.draw(steps=100, num_images=16)
    fleet.wait_for_phase("generation", busy, "drawing")  # only the other pod still has the generation route
    shutil.rmtree(models_dir / TINY_BASE)
    job_id = fleet.train()
    wait_until(lambda: "requeued" in fleet.app.events(job_id), "the damaged pod to requeue it")
    requeued = fleet.app.job("training", job_id)
    assert (requeued["status"], requeued["error_code"]) == ("queued", "model_missing")
    assert "worker models" in requeued["error"]
    fleet.app.run("select public.cancel_job('generation', %s)", busy)
    job = fleet.completed("training", job_id)
    assert (job["attempt"], job["failures"], job["error_code"]) == (2, 0, None)
    assert routes_of(fleet, "damaged") == ["publish_lora"]

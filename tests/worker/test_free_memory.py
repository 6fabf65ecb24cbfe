"""The free GPU memory of a pod decides what it trains and generates; what it refuses, it explains everywhere alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Databases
from tests.sql.pod import as_worker
from worker import __version__
from worker.database.pool import Database
from worker.kinds import load_kinds
from worker.models import UPSCALERS, BaseModels
from worker.pod.routes import Routes

NEEDS = {
    "flux-dev": "flux-dev needs 10.75 GiB of free GPU memory to train, 7.5 to generate",
    "flux-schnell": "flux-schnell needs 7.5 GiB of free GPU memory to generate",
    "klein": "klein needs 4.5 GiB of free GPU memory to generate",
    "klein-base": "klein-base needs 6.25 GiB of free GPU memory to train, 4.5 to generate",
    "qwen-image": "qwen-image needs 17 GiB of free GPU memory to train, 12.75 to generate",
    "sd15": "sd15 needs 6 GiB of free GPU memory to train, 4 to generate",
    "sdxl": "sdxl needs 6 GiB of free GPU memory to train, 4 to generate",
    "z-image": "z-image needs 9 GiB of free GPU memory to train, 5.25 to generate",
    "z-image-turbo": "z-image-turbo needs 5.25 GiB of free GPU memory to generate",
}
WITH_ITS_WEIGHTS = {"flux-dev": ["uno needs 7.5 GiB of free GPU memory to generate"]}
ALL = frozenset(NEEDS)


@dataclass(frozen=True)
class Plan:
    """What a pod with this much free memory offers."""

    free_gib: float | None
    has: str
    """The figure as it is shown: rounded down, so that nobody reads "needs 4.5, has 4.5"."""
    generates: frozenset[str] = frozenset()
    trains: frozenset[str] = frozenset()


SMALL = frozenset({"sd15", "sdxl"})
KLEIN = SMALL | {"klein", "klein-base"}
MIDDLE = KLEIN | {"z-image", "z-image-turbo"}
LARGE = MIDDLE | {"flux-dev", "flux-schnell"}
MIDDLE_TRAINED = SMALL | {"klein-base"}
TRAINED = MIDDLE_TRAINED | {"z-image", "flux-dev"}
TABLE = (
    Plan(None, ""),
    Plan(3.97, "3.9"),
    Plan(4.0, "4", SMALL),
    Plan(4.47, "4.4", SMALL),
    Plan(4.5, "4.5", KLEIN),
    Plan(5.25, "5.2", MIDDLE),
    Plan(6.25, "6.2", MIDDLE, MIDDLE_TRAINED),
    Plan(9.0, "9", LARGE, MIDDLE_TRAINED | {"z-image"}),
    Plan(11.0, "11", LARGE, TRAINED),
    Plan(15.2, "15.2", ALL, TRAINED),
    Plan(22.6, "22.6", ALL, TRAINED | {"qwen-image"}),
    Plan(80.0, "80", ALL, TRAINED | {"qwen-image"}),
)
"""A card of 12 GB has about 11.0 GiB free, one of 16 GB 15.2, one of 24 GB 22.6."""


@pytest.fixture(scope="module")
def url(databases: Databases) -> Iterator[str]:
    """A migrated database, as a pod's login sees it."""
    with databases.fresh() as url:
        yield as_worker(url)


def disk_with(folder: Path, base: str) -> BaseModels:
    """Put a base and both upscalers into a MODELS_DIR, as far as routes look at them."""
    for slug, file in {base: "model_index.json", **dict.fromkeys(UPSCALERS.values(), "model.safetensors")}.items():
        (folder / slug).mkdir()
        (folder / slug / file).write_text("{}")
    return BaseModels(folder, None, "none", None)


@pytest.mark.parametrize("base", NEEDS)
@pytest.mark.parametrize("plan", TABLE, ids=lambda plan: f"{plan.free_gib} GiB")
async def test_a_pod_offers_what_fits_its_free_memory_and_says_why_it_refuses_the_rest(
    url: str, tmp_path: Path, plan: Plan, base: str
) -> None:
    pod_id = uuid4()
    async with Database(url, "free memory") as database:
        routes = Routes(database, disk_with(tmp_path, base), load_kinds()[0])
        await routes.refresh(gpu=True, free_vram_gib=plan.free_gib)
        offered = {route for route, slot in routes.slot_of.items() if slot == "gpu"}
        models = routes.models_in_reach
        await database.call("register_pod", pod_id, "pod", sorted(offered), plan.free_gib, models, False, __version__)
        why = {kind: await database.call("why_stranded", f"{kind}/{base}") for kind in ("generation", "training")}
        await database.call("deregister_pod", pod_id)

    fits = {"generation": base in plan.generates, "training": base in plan.trains}
    assert offered == {f"{kind}/{base}" for kind in fits if fits[kind]}
    this_pod = "this pod has no GPU" if plan.free_gib is None else f"this pod has {plan.has}"
    needs = "; ".join([NEEDS[base], *WITH_ITS_WEIGHTS.get(base, [])])
    assert routes.why_no_gpu_job == (None if any(fits.values()) else f"{needs}; {this_pod}")
    if base in ("flux-schnell", "klein", "z-image-turbo"):
        del fits["training"]  # refused at INSERT: it cannot be trained, whatever the memory
    pods = "no live pod has a GPU that is ready" if plan.free_gib is None else f"the largest pod has {plan.has}"
    assert {kind: why[kind] for kind in fits} == {
        kind: None if enough else f"{NEEDS[base]}; {pods}" for kind, enough in fits.items()
    }


async def test_the_database_is_asked_again_only_when_something_has_changed(url: str, tmp_path: Path) -> None:
    asked: list[object] = []

    class ObservedDatabase(Database):
        async def fetch(self, statement: Any, arguments: list[Any] | None = None) -> list[dict[str, Any]]:
            asked.append(statement)
            return await super().fetch(statement, arguments)

    async with ObservedDatabase(url, "routes") as database:
        routes = Routes(database, disk_with(tmp_path, "sd15"), load_kinds()[0])

        async def asks(digest: str = "a", free_vram_gib: float = 24.0) -> bool:
            asked.clear()
            await routes.refresh(gpu=True, free_vram_gib=free_vram_gib, digest=digest)
            return bool(asked)

        assert await asks()
        offered = dict(routes.slot_of)
        assert not await asks()
        routes.refuse("generation/sd15")
        assert not await asks()
        assert "generation/sd15" not in routes.slot_of
        routes._refused_until.clear()  # as when the time has passed
        assert not await asks()
        assert routes.slot_of == offered
        assert await asks(digest="b")
        assert await asks(digest="b", free_vram_gib=1.0)
        (tmp_path / "sd15" / "model_index.json").unlink()
        assert await asks(digest="b", free_vram_gib=1.0)


async def test_a_pod_that_only_trains_is_not_content_with_what_generating_needs(url: str, tmp_path: Path) -> None:
    kinds = {name: kind for name, kind in load_kinds()[0].items() if name == "training"}
    async with Database(url, "free memory") as database:
        routes = Routes(database, disk_with(tmp_path, "flux-dev"), kinds)
        await routes.refresh(gpu=True, free_vram_gib=10.6)
    assert (routes.slot_of, routes.why_no_gpu_job) == ({}, f"{NEEDS['flux-dev']}; this pod has 10.6")

"""References and control pictures through the whole pipeline: from an INSERT to a published picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from tests.worker.conftest import Fleet, MakeFleet
from tests.worker.test_families import REGISTER, REGISTER_KLEIN
from worker.models import UPSCALERS

SD15, KLEIN = "tiny-sd15", "tiny-klein-distilled"
REFERENCE, POSE = "ip-adapter-sd15", "controlnet-pose-sd15"
SIDE = 96


@pytest.fixture(scope="module")
def disk(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODELS_DIR with the tiny bases of two families, and guides for one of them."""
    from worker.ml import models
    from worker.ml.guides.tiny import ip_adapter

    folder = tmp_path_factory.mktemp("guides")
    for slug in (*UPSCALERS.values(), SD15, "tiny-klein", KLEIN):
        (folder / slug).symlink_to(tiny_models / slug)
    ip_adapter.build_tiny(folder / REFERENCE, models.load(tiny_models / SD15))
    return folder


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, disk: Path) -> Fleet:
    fleet = make_fleet(models_dir=disk)
    fleet.app.run(REGISTER)
    fleet.app.run(REGISTER_KLEIN)
    fleet.app.run("update worker.guides set vram_gib = 0")
    fleet.app.run(
        "update worker.base_models set capabilities = capabilities || '{reference,control:pose}' where slug = %s", SD15
    )
    fleet.app.run("update worker.base_models set capabilities = capabilities || '{reference}' where family = 'klein'")
    fleet.ready(1)
    return fleet


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """Return a PNG of coloured blocks, another one for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, "png")
    return file.getvalue()


def put(fleet: Fleet, name: str, content: bytes, subject: UUID | str = "_/inputs") -> str:
    """Store an object under a person, or under nobody, and return its key."""
    folder = subject if isinstance(subject, str) else f"{subject}/photos"
    key = f"{fleet.app.owner}/{folder}/{name}"
    fleet.app.s3.put_object(Bucket=fleet.app.uploads, Key=key, Body=content)
    return key


def raw(fleet: Fleet, result: dict[str, Any]) -> np.ndarray[Any, Any]:
    content = fleet.app.read(fleet.app.uploads, result["pictures"][0]["raw"])
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_reference_changes_the_picture_and_scale_0_is_as_without_it(fleet: Fleet) -> None:
    person = fleet.app.add_subject()
    key = put(fleet, "face.png", picture(1), person)

    def drawn(**columns: object) -> dict[str, Any]:
        job = fleet.draw(base=SD15, seed=3, **columns)
        result: dict[str, Any] = fleet.completed("generation", job)["result"]
        return result

    plain, steered = drawn(), drawn(reference_paths=[key])
    weak, off = drawn(reference_paths=[key], reference_scale=0.5), drawn(reference_paths=[key], reference_scale=0)
    assert plain["guides"] == []
    (said,) = steered["guides"]
    assert said == {
        **{"capability": "reference", "guide": REFERENCE, "paths": [key], "scale": 1, "start": 0, "end": 1},
        **{"used": True, "sizes": [[SIDE, SIDE]]},
    }
    assert off["guides"][0]["used"] is False
    assert (raw(fleet, off) == raw(fleet, plain)).all()
    assert len({raw(fleet, result).tobytes() for result in (plain, steered, weak)}) == 3

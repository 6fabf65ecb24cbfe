"""A tiny base, two drawn people, and a LoRA of the first that has really learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ml.runs import finish
from worker.demo import portrait
from worker.ml import base_models
from worker.ml.base_models import Base
from worker.ml.batches import Photo
from worker.ml.train_lora import LoraConfig, TrainedLora, train

TRIGGER = "ohwx"
LEARNS = LoraConfig(steps=120, rank=16, learning_rate=5e-3, resolution=96, batch_size=6)
"""A few seconds on the tiny base, after which a person shows."""
PEOPLE = {"example": portrait.Person.example(), "other": portrait.Person.other()}


@pytest.fixture(scope="session")
def tiny_base(tiny_models: Path) -> Path:
    return tiny_models / "tiny-flux"


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> Base:
    """The loaded tiny base. No test may leave it changed, and `test_stopping.py` shows that none does."""
    return base_models.load(tiny_base, "cpu")


@pytest.fixture(scope="session")
def take_photos(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Photo]]:
    """Photographs of a person of PEOPLE, 3:4, with captions."""

    def take(who: str, *, seed: int, count: int) -> list[Photo]:
        folder = tmp_path_factory.mktemp(who)
        photos = []
        for number, scene in enumerate(portrait.scenes(count, seed)):
            path = folder / f"{number}.jpg"
            portrait.draw(PEOPLE[who], scene, (192, 256)).save(path, quality=92)
            photos.append(Photo(path, f"a photo of {TRIGGER} person, {scene.caption}"))
        return photos

    return take


@pytest.fixture(scope="session")
def photos(take_photos: Callable[..., list[Photo]]) -> list[Photo]:
    return take_photos("example", seed=0, count=12)


@pytest.fixture(scope="session")
def trained(base: Base, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> TrainedLora:
    """A LoRA of `example`, trained for a few seconds."""
    workdir = tmp_path_factory.mktemp("trained")
    return finish(train(base, photos, LEARNS, workdir=workdir, metadata={"trigger_word": TRIGGER}))

"""A training that ran away says so, instead of publishing a LoRA that is worse than none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.ml.runs import finish, lora_config
from worker.demo.config import SMALL_BASE
from worker.ml import models
from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, Step, train

CONFIG = lora_config(steps=10, rank=8, resolution=96, batch_size=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def small_base() -> Base:
    """A trained base: only there is a LoRA that learnt nothing worse than none."""
    return models.load(SMALL_BASE / "base", "cpu")


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_a_learning_rate_that_is_far_too_high_ends_the_training_early(
    small_base: Base, photos: list[Photo], tmp_path: Path, rate: float
) -> None:
    steps: list[object] = []
    said = rf"training ran away: after \d steps .* without the LoRA; use a lower learning_rate than {rate:g}$"
    with pytest.raises(BadInput, match=said):
        finish(train(small_base, photos[:6], replace(CONFIG, learning_rate=rate, steps=40), Run(tmp_path)), steps)
    assert sum(isinstance(event, Step) for event in steps) <= 10
    assert not (tmp_path / "lora.safetensors").exists()


def test_a_training_that_learns_is_left_alone(small_base: Base, photos: list[Photo], tmp_path: Path) -> None:
    trained = finish(train(small_base, photos[:6], replace(CONFIG, learning_rate=1e-2), Run(tmp_path)))
    assert trained.path.exists()

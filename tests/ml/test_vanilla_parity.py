"""A published LoRA must draw the same picture in plain diffusers as here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.ml import vanilla
from tests.ml.runs import finish, pictures
from worker.ml.base_models import Base
from worker.ml.batches import Photo
from worker.ml.generate import LoraUse, PictureRequest, generate
from worker.ml.train_lora import LoraConfig, TrainedLora, train

PROMPT = "a photo of ohwx person, wearing a blue shirt, in a park"
REQUEST = PictureRequest(
    PROMPT, negative_prompt=None, width=96, height=128, steps=6, guidance=3.5, seed=11, num_images=1
)
SETTINGS = {"width": 96, "height": 128, "num_inference_steps": 6, "guidance_scale": 3.5}


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture(scope="module")
def narrow(base: Base, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> TrainedLora:
    """A LoRA of another rank, from another seed."""
    config = LoraConfig(steps=20, rank=6, learning_rate=5e-3, resolution=64, batch_size=4, seed=3)
    return finish(train(base, photos, config, workdir=tmp_path_factory.mktemp("narrow"), metadata={}))


def test_without_a_lora_the_picture_is_plain_diffusers(base: Base) -> None:
    (ours,) = pictures(generate(base, REQUEST))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, **SETTINGS)
    assert furthest(ours, theirs) == 0


@pytest.mark.parametrize("scale", [1.0, 0.6, -0.5])
@pytest.mark.parametrize("which", ["trained", "narrow"])
def test_a_trained_lora_draws_as_in_plain_diffusers(
    base: Base, which: str, scale: float, request: pytest.FixtureRequest
) -> None:
    lora: TrainedLora = request.getfixturevalue(which)
    (ours,) = pictures(generate(base, replace(REQUEST, loras=(LoraUse(lora.path, scale),))))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, loras=[(lora.path, scale)], **SETTINGS)
    (without,) = pictures(generate(base, REQUEST))
    assert furthest(ours, theirs) == 0
    assert furthest(ours, without) >= 20


def test_two_loras_at_once_draw_as_in_plain_diffusers(base: Base, trained: TrainedLora, narrow: TrainedLora) -> None:
    uses = [(trained.path, 0.8), (narrow.path, 0.4)]
    (ours,) = pictures(generate(base, replace(REQUEST, loras=tuple(LoraUse(*use) for use in uses))))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, loras=uses, **SETTINGS)
    assert furthest(ours, theirs) == 0


def test_the_next_image_is_the_next_seed(base: Base, trained: TrainedLora) -> None:
    ours = pictures(generate(base, replace(REQUEST, num_images=2, loras=(LoraUse(trained.path),))))
    theirs = [vanilla.draw(base.folder, PROMPT, seed=s, loras=[(trained.path, 1)], **SETTINGS) for s in (11, 12)]
    assert [furthest(a, b) for a, b in zip(ours, theirs, strict=True)] == [0, 0]
    assert furthest(*ours) > 20


def test_in_bfloat16_as_on_a_gpu_both_still_agree(base: Base, trained: TrainedLora) -> None:
    parts = base.architecture.load(base.folder, torch.bfloat16)
    half = replace(base, parts=parts, dtype=torch.bfloat16)
    (ours,) = pictures(generate(half, replace(REQUEST, loras=(LoraUse(trained.path),))))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, loras=[(trained.path, 1)], dtype=torch.bfloat16, **SETTINGS)
    assert furthest(ours, theirs) == 0


@pytest.mark.parametrize("change", [{"guidance": 1.0}, {"steps": 7}, {"seed": 12}, {"prompt": "a red wall"}])
def test_each_setting_matters(base: Base, change: dict[str, object]) -> None:
    """Parity would be cheap if the tiny base ignored what it is given."""
    (one,), (other,) = (pictures(generate(base, replace(REQUEST, **c))) for c in ({}, change))
    assert furthest(one, other) > 0

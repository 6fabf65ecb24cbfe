"""A run that is stopped, fails, or ends leaves the base unchanged."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ml.runs import lora_config, pictures
from worker.ml.draw import generate as drawing
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.models import Base
from worker.ml.train import train_lora as training
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, TrainedLora, train

REQUEST = PictureRequest("a photo", negative_prompt=None, width=32, height=32, steps=3, guidance=2.0, seed=5)
CONFIG = lora_config(steps=4, rank=4, learning_rate=1e-2, resolution=32, batch_size=2)


@pytest.fixture(scope="module")
def before(base: Base) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """All weights of the base, by name, and a picture of it."""
    return _weights(base), pictures(generate(base, REQUEST))[0]


def _weights(base: Base) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": weight.clone()
        for part, module in base.family.modules(base.parts).items()
        for name, weight in module.state_dict().items()
    }


def assert_unchanged(base: Base, before: tuple[dict[str, torch.Tensor], np.ndarray]) -> None:
    weights, picture = before
    now = _weights(base)
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[name], weights[name]) for name in weights)
    assert not any(w.requires_grad for m in base.family.modules(base.parts).values() for w in m.parameters())
    np.testing.assert_array_equal(pictures(generate(base, REQUEST))[0], picture)


def stop_after(run: Generator[Any, None, Any], kind: type, count: int) -> None:
    """Read events up to the count-th of this kind, then stop iterating."""
    for event in run:
        count -= isinstance(event, kind)
        if count == 0:
            break
    run.close()


@pytest.mark.parametrize("steps", [1, 4])  # of three a picture
def test_a_drawing_stopped_at_any_step_leaves_the_base_unchanged(
    base: Base, trained: TrainedLora, before: Any, steps: int
) -> None:
    request = replace(REQUEST, num_images=2, loras=(LoraUse(trained.path),))
    stop_after(generate(base, request), drawing.Step, steps)
    assert_unchanged(base, before)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_training_stopped_at_any_step_leaves_the_base_unchanged(
    base: Base, photos: list[Photo], before: Any, tmp_path: Path, steps: int
) -> None:
    stop_after(train(base, photos[:2], CONFIG, Run(tmp_path)), training.Step, steps)
    assert not (tmp_path / "lora.safetensors").exists()
    assert_unchanged(base, before)


def test_a_finished_drawing_leaves_the_base_unchanged(base: Base, trained: TrainedLora, before: Any) -> None:
    list(generate(base, replace(REQUEST, loras=(LoraUse(trained.path, 1.7),))))
    assert_unchanged(base, before)


def test_a_failing_consumer_leaves_the_base_unchanged(base: Base, trained: TrainedLora, before: Any) -> None:
    def consume() -> None:
        for event in generate(base, replace(REQUEST, loras=(LoraUse(trained.path),))):
            if isinstance(event, drawing.Step):
                raise KeyError("the consumer's own error")

    with pytest.raises(KeyError):
        consume()
    assert_unchanged(base, before)


def test_a_lora_that_cannot_be_loaded_leaves_the_base_unchanged(
    base: Base, trained: TrainedLora, before: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(trained.path.read_bytes()[:-1000])
    with pytest.raises(ModelUnreadable):
        list(generate(base, replace(REQUEST, loras=(LoraUse(trained.path), LoraUse(broken)))))
    assert_unchanged(base, before)


def test_a_diverging_training_fails_and_leaves_the_base_unchanged(
    base: Base, photos: list[Photo], before: Any, tmp_path: Path
) -> None:
    wild = replace(CONFIG, learning_rate=1e30, steps=20)
    with pytest.raises(BadInput, match="learning_rate"):
        list(train(base, photos[:2], wild, Run(tmp_path)))
    assert_unchanged(base, before)


def test_a_drawing_stops_within_one_step(base: Base) -> None:
    """Between two events there are at most the denoiser calls of one step: two where the family does not batch them."""
    passes, calls = 0, len(base.family.evaluations(base.parts, REQUEST.guidance, 0.0))

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    denoiser = base.denoiser
    hook = denoiser.register_forward_hook(count)
    try:
        for event in generate(base, replace(REQUEST, num_images=2)):
            assert passes == (calls if isinstance(event, drawing.Step) else 0)
            passes = 0
    finally:
        hook.remove()

"""Training in float16, for devices without native bfloat16: gradients are scaled, and an overflow skips a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.ml.families import only_sd15
from tests.ml.runs import finish, lora_config
from worker.demo.held_out_loss import held_out_loss
from worker.ml import models
from worker.ml.errors import BadInput, NotFinite
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Checkpoint, Run, Step, train

pytestmark = only_sd15  # the only family that is trained in it

CONFIG = lora_config(steps=10, rank=4, learning_rate=5e-3, resolution=32, batch_size=2)


@pytest.fixture(scope="module")
def photos(photos: list[Photo]) -> list[Photo]:
    return photos[:3]


@pytest.fixture(scope="module")
def half(base: Base) -> Base:
    return models.load(base.folder, "cpu", torch.float16)


@contextmanager
def overflow(base: Base, when: Callable[[int], bool]) -> Iterator[None]:
    """Let the denoiser overflow in those of its passes with gradients, counted from 1, for which `when` is true."""
    passes = 0

    def spoil(module: object, arguments: object, output: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        nonlocal passes
        passes += torch.is_grad_enabled()
        return (output[0] * torch.inf,) if torch.is_grad_enabled() and when(passes) else output

    hook = base.denoiser.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


def test_a_lora_trained_in_float16_learns_and_is_float16(half: Base, photos: list[Photo], tmp_path: Path) -> None:
    trained = finish(train(half, photos, CONFIG, Run(tmp_path)))
    written = load_file(trained.path).items()
    assert {weights.dtype for name, weights in written if not name.endswith(".alpha")} == {torch.float16}
    without, with_it = (held_out_loss(half, photos[:2], lora, resolution=32) for lora in (None, trained.path))
    assert with_it < without


def test_resumed_equals_uninterrupted_and_the_loss_scale_is_kept(
    half: Base, photos: list[Photo], tmp_path: Path
) -> None:
    """An overflow before the checkpoint changes the scale, which the steps after it must not forget."""
    kept = tmp_path / "kept.safetensors"
    whole_dir, rest_dir = tmp_path / "whole", tmp_path / "rest"
    whole_dir.mkdir()
    rest_dir.mkdir()
    run = train(half, photos, CONFIG, Run(whole_dir, checkpoint_every_s=0))
    with overflow(half, lambda number: number == 3):
        for event in run:
            if isinstance(event, Checkpoint) and event.step == 5:
                event.path.rename(kept)
                break
        whole = finish(run)
    resumed = finish(train(half, photos, CONFIG, Run(rest_dir, resume_from=kept)))
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.losses.read_bytes() == whole.losses.read_bytes()
    with safe_open(kept, framework="pt") as file:
        numbers = json.loads(file.metadata()["numbers"])
    assert (numbers["scaler/scale"], numbers["scaler/_growth_tracker"]) == (32768, 2)


def test_a_step_that_overflows_changes_nothing_and_does_not_count_as_divergence(
    half: Base, photos: list[Photo], tmp_path: Path
) -> None:
    checkpoints, losses = {}, []
    with overflow(half, lambda number: number == 3):
        for event in train(half, photos, CONFIG, Run(tmp_path, checkpoint_every_s=0)):
            if isinstance(event, Step):
                losses.append(event.loss)
            elif isinstance(event, Checkpoint):
                checkpoints[event.step] = load_file(event.path)
    assert len(losses) == CONFIG.steps
    assert losses[2] == losses[1] != losses[3]
    lora = [name for name in checkpoints[2] if name.startswith("lora/")]
    assert all(torch.equal(checkpoints[2][name], checkpoints[3][name]) for name in lora)
    assert not all(torch.equal(checkpoints[3][name], checkpoints[4][name]) for name in lora)


def test_gradients_are_clipped_at_their_own_scale(base: Base, half: Base, photos: list[Photo], tmp_path: Path) -> None:
    """Clipped with the loss scale still in them, they would all have its inverse as their norm. AdamW hides that."""
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [weights.grad for group in optimizer.param_groups for weights in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm([grad for grad in gradients if grad is not None])))

    hook = register_optimizer_step_pre_hook(note)
    try:
        for one in (base, half):
            finish(train(one, photos, replace(CONFIG, steps=1), Run(tmp_path)))
    finally:
        hook.remove()
    exact, of_half = norms
    assert of_half == pytest.approx(exact, rel=0.1)


def test_overflow_that_no_loss_scale_ends_is_divergence(half: Base, photos: list[Photo], tmp_path: Path) -> None:
    events: list[object] = []
    config = replace(CONFIG, steps=100, batch_size=1)
    with overflow(half, lambda number: number >= 3), pytest.raises(BadInput, match="use a lower learning_rate"):
        finish(train(half, photos, config, Run(tmp_path)), events)
    assert sum(isinstance(event, Step) for event in events) < 25


def test_overflow_before_anything_was_learnt_is_the_bases(half: Base, photos: list[Photo], tmp_path: Path) -> None:
    with overflow(half, lambda _: True), pytest.raises(NotFinite, match=f"{half.folder.name} gives numbers that"):
        finish(train(half, photos, CONFIG, Run(tmp_path)))


def test_in_other_precisions_there_is_no_loss_scale(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    run = train(base, photos, replace(CONFIG, steps=2), Run(tmp_path, checkpoint_every_s=0))
    checkpoint = next(event for event in run if isinstance(event, Checkpoint))
    run.close()
    with safe_open(checkpoint.path, framework="pt") as file:
        assert json.loads(file.metadata()["numbers"]) == {}
    with overflow(base, lambda number: number == 2), pytest.raises(BadInput, match="diverged at step 2"):
        list(train(base, photos, replace(CONFIG, steps=2), Run(tmp_path)))


def test_a_training_begun_in_float32_resumes_in_float16(
    base: Base, half: Base, photos: list[Photo], tmp_path: Path
) -> None:
    run = train(base, photos, CONFIG, Run(tmp_path, checkpoint_every_s=0))
    checkpoint = next(event for event in run if isinstance(event, Checkpoint) and event.step == 8)
    run.close()
    resumed = train(half, photos, CONFIG, Run(tmp_path, resume_from=checkpoint.path))
    assert [event.index for event in resumed if isinstance(event, Step)] == [9, 10]

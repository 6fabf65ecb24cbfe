"""What a training step sees, and what a LoRA learns from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.ml.conftest import LEARNS
from tests.ml.runs import finish
from worker.ml.architectures import ARCHITECTURES
from worker.ml.base_models import Base
from worker.ml.batches import Batch, Photo, draw_batch, encode_captions, encode_photos
from worker.ml.errors import BadInput
from worker.ml.train_lora import LoraConfig, TrainedLora, flow_loss, held_out_loss, train


@pytest.fixture(scope="module")
def drawn(base: Base, photos: list[Photo]) -> Callable[..., Batch]:
    """`draw_batch` over the photos."""
    samples = encode_photos(base, photos, 64)
    texts = encode_captions(base, [photo.caption for photo in photos])

    def draw(step: int, *, seed: int = 0, batch_size: int = 5, caption_dropout: float = 0.0) -> Batch:
        return draw_batch(
            *(base, samples, texts),
            step=step,
            seed=seed,
            batch_size=batch_size,
            caption_dropout=caption_dropout,
        )

    return draw


def test_a_step_is_drawn_from_its_number_and_the_seed_alone(drawn: Callable[..., Batch]) -> None:
    torch.manual_seed(1)
    one = drawn(7)
    torch.manual_seed(2)
    again, later, other = drawn(7), drawn(8), drawn(7, seed=1)
    assert torch.equal(one.noise, again.noise)
    assert torch.equal(one.time, again.time)
    assert torch.equal(one.latents, again.latents)
    assert not torch.equal(one.time, later.time)
    assert not torch.equal(one.time, other.time)


def test_every_photo_comes_once_an_epoch_in_changing_order(drawn: Callable[..., Batch]) -> None:
    epochs = []
    for epoch in range(3):
        batches = [drawn(epoch * 3 + step) for step in range(3)]  # 12 photos, 5 at a time
        assert sorted(len(batch.latents) for batch in batches) == [2, 5, 5]
        epochs.append([latents.sum().item() for batch in batches for latents in batch.latents])
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(epochs[2])
    assert max(Counter(epochs[0]).values()) == 1
    assert epochs[0] != epochs[1] != epochs[2]


def test_photos_of_different_shapes_share_no_batch(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    from PIL import Image

    wide = [Photo(tmp_path / f"{i}.png", "wide") for i in range(3)]
    for photo in wide:
        Image.new("RGB", (90, 60), "red").save(photo.path)
    samples = encode_photos(base, [*photos[:3], *wide], 64)
    texts = encode_captions(base, [sample.caption for sample in samples])
    draw = [draw_batch(base, samples, texts, step=step, seed=0, batch_size=2, caption_dropout=0) for step in range(4)]
    assert sorted(len(batch.latents) for batch in draw) == [1, 1, 2, 2]
    assert {batch.grid for batch in draw} == {sample.grid for sample in samples}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_caption_dropout_empties_that_share_of_captions(base: Base, drawn: Callable[..., Batch], share: float) -> None:
    empty = encode_captions(base, [])[""].tokens[0]
    seen = [
        torch.equal(tokens, empty)
        for step in range(60)
        for tokens in drawn(step, batch_size=4, caption_dropout=share).text.tokens
    ]
    assert sum(seen) / len(seen) == pytest.approx(share, abs=0.1 if 0 < share < 1 else 0)


def test_times_cover_the_schedule(drawn: Callable[..., Batch]) -> None:
    times = torch.cat([drawn(step).time for step in range(200)])
    assert 0 < times.min() < 0.2
    assert 0.8 < times.max() < 1
    assert 0.5 < times.mean() < 0.7  # shifted towards noise, as FLUX draws at this size


def test_a_fresh_lora_changes_nothing(base: Base, drawn: Callable[..., Batch]) -> None:
    batch = drawn(0)
    with torch.no_grad():
        without = flow_loss(base, batch)
        with base.architecture.new_lora(base.parts, 4, torch.Generator().manual_seed(0)):
            assert flow_loss(base, batch) == without


def test_gradient_checkpointing_changes_nothing_but_memory(base: Base, drawn: Callable[..., Batch]) -> None:
    gradients = []
    for spare in (False, True):
        with base.architecture.new_lora(base.parts, 4, torch.Generator().manual_seed(0)) as lora:
            if spare:
                base.parts.transformer.enable_gradient_checkpointing()
            flow_loss(base, drawn(0)).backward()
            gradients.append([weights.grad for weights in lora.values()])
    assert not base.parts.transformer.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_lora_knows_its_person_better_than_none_and_better_than_anothers(
    base: Base, trained: TrainedLora, take_photos: Callable[..., list[Photo]], tmp_path: Path
) -> None:
    others = take_photos("other", seed=1, count=12)
    theirs = finish(train(base, others, LEARNS, workdir=tmp_path, metadata={}))
    held_out = take_photos("example", seed=7, count=6)
    loss = {
        name: held_out_loss(base, held_out, path, resolution=96)
        for name, path in (("none", None), ("own", trained.path), ("theirs", theirs.path))
    }
    assert loss["own"] < 0.6 * loss["none"]
    assert loss["own"] < 0.95 * loss["theirs"]


def test_the_held_out_loss_is_the_same_each_time(base: Base, trained: TrainedLora, photos: list[Photo]) -> None:
    one, again, other = (
        held_out_loss(base, photos[:2], trained.path, draws=4, resolution=64, seed=seed) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_in_bfloat16_as_on_a_gpu_a_training_runs_and_is_saved_so(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    parts = base.architecture.load(base.folder, torch.bfloat16)
    half = replace(base, parts=parts, dtype=torch.bfloat16)
    for module in half.architecture.modules(parts).values():
        module.requires_grad_(False)
    config = LoraConfig(steps=10, rank=4, learning_rate=5e-3, resolution=64, batch_size=4)
    trained = finish(train(half, photos, config, workdir=tmp_path, metadata={}))
    assert {weights.dtype for weights in load_file(trained.path).values()} == {torch.bfloat16}
    assert held_out_loss(half, photos[:2], trained.path, resolution=64) < held_out_loss(
        half, photos[:2], None, resolution=64
    )


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"rank": 0}, {"learning_rate": 0.0}, {"batch_size": 0}, {"caption_dropout": 1.5}],
    ids=str,
)
def test_impossible_settings_are_refused(
    base: Base, photos: list[Photo], tmp_path: Path, change: dict[str, float]
) -> None:
    config = replace(LoraConfig(steps=1), **change)
    with pytest.raises(BadInput, match=next(iter(change))):
        next(train(base, photos, config, workdir=tmp_path, metadata={}))


def test_no_photos_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        next(train(base, [], LoraConfig(steps=1), workdir=tmp_path, metadata={}))


@pytest.mark.parametrize(("photo_count", "steps"), [(1, 800), (15, 1500), (60, 2500)])
def test_flux_trains_a_hundred_steps_a_photo_within_bounds(photo_count: int, steps: int) -> None:
    assert ARCHITECTURES["flux"].training_defaults.steps(photo_count) == steps

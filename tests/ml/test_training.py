"""What a training step reads, and what a LoRA learns from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.ml.conftest import EVERY_FAMILY, TRIGGER
from tests.ml.runs import finish, lora_config, predict
from worker.demo.held_out_loss import held_out_loss
from worker.jobs.wording import name_class
from worker.ml import models
from worker.ml.adapters import attach
from worker.ml.errors import BadInput
from worker.ml.families.lora import load_fitting
from worker.ml.families.registry import FAMILIES
from worker.ml.models import Base
from worker.ml.protocol import Condition, Framing
from worker.ml.train import runaway
from worker.ml.train.batches import Batch, Photo, TrainingData, draw_batch, encode_captions, encode_photos
from worker.ml.train.loss import sample_losses
from worker.ml.train.train_lora import Checkpoint, LoraConfig, Run, Step, TrainedLora, train

CLASS_CAPTION = "a photo of a person"
LEARN_SOONEST = ("flux", "sdxl")
"""A transformer and a U-Net."""


def of_a_class(photos: list[Photo]) -> list[Photo]:
    return [replace(photo, class_caption=CLASS_CAPTION) for photo in photos]


@pytest.fixture(scope="module")
def batch_of(base: Base, photos: list[Photo]) -> Callable[..., Batch]:
    """Draws the batch of a step from the photos, with these settings."""
    samples, _ = encode_photos(base, of_a_class(photos), 64)
    texts = encode_captions(base, [caption for sample in samples for caption in sample.photo.captions])
    return drawn_from(base, TrainingData(samples, texts))


@dataclass(frozen=True)
class Captions:
    """A condition that shows its captions, because only a family looks into those that it makes."""

    captions: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(self.captions)

    def join(self, others: Sequence[Captions]) -> Captions:
        return Captions(sum((other.captions for other in others), self.captions))

    def take(self, rows: torch.Tensor) -> Captions:
        return Captions(tuple(self.captions[row] for row in rows.nonzero().flatten().tolist()))


@pytest.fixture(scope="module")
def batch_of_captions(base: Base, photos: list[Photo]) -> Callable[..., Batch]:
    """The same, with the captions as they are."""
    samples, _ = encode_photos(base, of_a_class(photos), 64)
    captions = [caption for sample in samples for caption in sample.photo.captions]
    return drawn_from(base, TrainingData(samples, {caption: Captions((caption,)) for caption in [*captions, ""]}))


def drawn_from(base: Base, data: TrainingData) -> Callable[..., Batch]:
    defaults = lora_config(batch_size=5, caption_dropout=0, preservation=0)
    return lambda step, **settings: draw_batch(base, data, replace(defaults, **settings), step)


def test_the_family_is_told_how_each_photo_of_a_batch_was_framed(
    base: Base, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, _ = encode_photos(base, photos, 64)
    told: list[tuple[int, list[Framing]]] = []

    def frame(condition: Condition, framings: list[Framing]) -> Condition:
        told.append((condition.rows, framings))
        return condition

    monkeypatch.setattr(base.family, "frame", frame)
    texts = encode_captions(base, [photo.caption for photo in photos])
    batch = drawn_from(base, TrainingData(samples, texts))(3)
    ((rows, framings),) = told
    assert rows == len(framings) == len(batch.latents)
    by_latents = {sample.latents.numpy().tobytes(): sample.framing for sample in samples}
    assert framings == [by_latents[latents.numpy().tobytes()] for latents in batch.latents.split(1)]


def test_a_step_is_drawn_from_its_number_and_the_seed_alone(batch_of: Callable[..., Batch]) -> None:
    torch.manual_seed(1)
    one = batch_of(7)
    torch.manual_seed(2)
    again, later, other = batch_of(7), batch_of(8), batch_of(7, seed=1)
    assert torch.equal(one.noise, again.noise)
    assert torch.equal(one.time, again.time)
    assert torch.equal(one.latents, again.latents)
    assert not torch.equal(one.time, later.time)
    assert not torch.equal(one.time, other.time)


def test_every_photo_comes_as_often_as_a_batch_is_large_in_a_round_and_the_order_changes(
    batch_of: Callable[..., Batch],
) -> None:
    """A short last batch once gave its photos more weight than the others."""
    rounds = []
    for number in range(2):
        batches = [batch_of(number * 12 + step) for step in range(12)]  # 12 photos, 5 at a time
        assert {len(batch.latents) for batch in batches} == {5}
        rounds.append([latents.sum().item() for batch in batches for latents in batch.latents])
    assert Counter(rounds[0]) == Counter(rounds[1])
    assert set(Counter(rounds[0]).values()) == {5}
    assert rounds[0] != rounds[1]


def test_photos_of_different_shapes_share_no_batch(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    from PIL import Image

    wide = [Photo(tmp_path / f"{i}.png", "wide") for i in range(3)]
    for photo in wide:
        Image.new("RGB", (120, 80), "red").save(photo.path)
    samples, _ = encode_photos(base, [*photos[:3], *wide], 64)
    texts = encode_captions(base, [sample.photo.caption for sample in samples])
    data, config = TrainingData(samples, texts), lora_config(batch_size=2, caption_dropout=0, preservation=1)
    batches = [draw_batch(base, data, config, step) for step in range(6)]
    assert not any(batch.preserved.any() for batch in batches), "no class caption, no preservation"
    assert {len(batch.latents) for batch in batches} == {2}
    assert {batch.grid for batch in batches} == {sample.grid for sample in samples}


def test_resolutions_take_turns_and_photos_that_reach_fewer_keep_their_weight(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    """The photos are 192 x 256; one is a quarter of that, and reaches only the lowest resolution."""
    from PIL import Image

    small = replace(photos[0], path=tmp_path / "small.jpg", caption="small")
    with Image.open(photos[0].path) as picture:
        picture.resize((96, 128)).save(small.path)
    samples, _ = encode_photos(base, [small, *photos[1:4]], 64, 128, 192)
    assert [len([s for s in samples if s.photo == photo]) for photo in (small, *photos[1:4])] == [1, 3, 3, 3]
    data = TrainingData(samples, encode_captions(base, [sample.photo.caption for sample in samples]))
    assert data.photos == [small, *photos[1:4]]
    config = lora_config(batch_size=1, caption_dropout=0, preservation=0)
    batches = [draw_batch(base, data, config, step) for step in range(12)]
    seen = Counter((tuple(b.latents.flatten()[:4].tolist()), b.grid) for b in batches)
    assert sorted(seen.values()) == [1] * 9 + [3], "each photo three times, the small one always at its own size"
    sizes = [batch.grid[0] * batch.grid[1] for batch in batches]
    assert [sorted(sizes[turn::3])[-1] for turn in range(3)] == sorted(set(sizes))


def test_a_checkpoint_of_a_training_at_several_resolutions_is_resumed_bit_for_bit(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    config = lora_config(steps=4, rank=2, learning_rate=1e-3, resolutions=(32, 48))
    run = train(base, photos[:3], config, Run(tmp_path, checkpoint_every_s=0))
    checkpoint = next(event for event in run if isinstance(event, Checkpoint) and event.step == 2)
    kept = checkpoint.path.rename(tmp_path / "kept.safetensors")
    whole = finish(run)
    assert finish(train(base, photos[:3], config, Run(tmp_path, resume_from=kept))).sha256 == whole.sha256
    assert whole.photos == 3


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_caption_dropout_empties_that_share_of_captions(batch_of_captions: Callable[..., Batch], share: float) -> None:
    seen = [
        caption == ""
        for step in range(60)
        for caption in batch_of_captions(step, batch_size=4, caption_dropout=share).text.captions
    ]
    assert sum(seen) / len(seen) == pytest.approx(share, abs=0.1 if 0 < share < 1 else 0)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_preservation_gives_that_share_of_samples_the_class_caption(
    batch_of_captions: Callable[..., Batch], share: float
) -> None:
    assert not batch_of_captions(0, preservation=share).preserved.any(), "a fresh LoRA changes nothing yet"
    seen = []
    for step in range(1, 61):
        batch, plain = (
            batch_of_captions(step, batch_size=4, preservation=p, caption_dropout=0.2) for p in (share, 0.0)
        )
        assert [caption == CLASS_CAPTION for caption in batch.text.captions] == batch.preserved.tolist()
        assert torch.equal(batch.noise, plain.noise)
        assert batch.text.take(~batch.preserved) == plain.text.take(~batch.preserved)
        seen += batch.preserved.tolist()
    assert sum(seen) / len(seen) == pytest.approx(share, abs=0.1 if 0 < share < 1 else 0)


def test_the_target_of_a_preserved_sample_is_the_prediction_of_the_base_alone(
    base: Base, batch_of: Callable[..., Batch]
) -> None:
    batch = batch_of(1, preservation=0.5)
    kept = batch.preserved
    assert 0 < kept.sum() < len(kept)
    as_photos = replace(batch, preserved=torch.zeros_like(kept))
    noised, _ = base.family.noised_input_and_target(base.parts, batch.latents, batch.noise, batch.time)

    def predicted() -> torch.Tensor:
        return predict(base, noised, batch.time, batch.text, batch.grid)

    with torch.no_grad():
        alone, weights_of_times = predicted(), base.family.loss_weights(base.parts, batch.time)
        with base.family.new_lora(base.parts, 4, torch.Generator().manual_seed(0)) as lora:
            for weights in lora.values():
                weights += 0.05
            off_target = weights_of_times * (predicted() - alone).square().flatten(1).mean(1)
            losses = sample_losses(base, batch)
            torch.testing.assert_close(losses[kept], off_target[kept], rtol=1e-3, atol=1e-7)
            assert torch.equal(losses[~kept], sample_losses(base, as_photos)[~kept])
            assert off_target.min() > 0


def test_preservation_costs_a_second_pass_only_where_it_is_used_and_does_not_change_the_curve(
    base: Base,
    photos: list[Photo],
    batch_of: Callable[..., Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runaway, "MEASURED_AT", ())
    passes: list[int] = []
    config = lora_config(steps=12, rank=4, learning_rate=1e-3, resolution=64, caption_dropout=0, preservation=0.4)
    denoiser = base.denoiser
    hook = denoiser.register_forward_hook(lambda *_: passes.append(1))
    losses, counted = [], []
    try:
        for event in train(base, of_a_class(photos), config, Run(tmp_path)):
            if isinstance(event, Step):
                losses.append(event.loss)
                counted.append(len(passes))
            passes.clear()
    finally:
        hook.remove()
    kept = [bool(batch_of(step, batch_size=1, preservation=0.4).preserved.all()) for step in range(12)]
    assert True in kept
    assert counted == [2 if preserved else 1 for preserved in kept]
    assert [now == before for before, now in pairwise(losses)] == kept[1:]


@pytest.fixture(scope="session")
def learnt(
    base: Base, quick_config: LoraConfig, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory
) -> TrainedLora:
    """A LoRA that was trained until it shows its person."""
    return finish(train(base, photos, quick_config, Run(tmp_path_factory.mktemp("learnt"))))


@pytest.mark.parametrize("family", ["flux"], indirect=True, scope="session")  # one is enough, and slow enough
def test_without_the_trigger_word_the_base_stays_the_same(
    base: Base,
    quick_config: LoraConfig,
    photos: list[Photo],
    learnt: TrainedLora,
    take_photos: Callable[..., list[Photo]],
    tmp_path: Path,
) -> None:
    """Without preservation, "a photo of a person" shows the LoRA's own person too."""
    config = replace(quick_config, preservation=0.5, steps=170)  # half of the samples are preserved
    preserving = finish(train(base, in_class(photos), config, Run(tmp_path)))
    held_out = in_class(take_photos("example", seed=7, count=4))

    (resolution,) = config.resolutions
    drift = {lora: class_drift(base, held_out, lora, resolution) for lora in (learnt.path, preserving.path)}
    assert drift[preserving.path] < 0.2 * drift[learnt.path]
    none, leaking, preserved = (
        held_out_loss(base, held_out, lora, resolution=resolution) for lora in (None, learnt.path, preserving.path)
    )
    assert none - preserved > 0.9 * (none - leaking), "it still learnt its person, on half of the samples"


def in_class(photos: list[Photo]) -> list[Photo]:
    return [replace(photo, class_caption=name_class(photo.caption, TRIGGER, "a person")) for photo in photos]


@torch.no_grad()
def class_drift(base: Base, photos: list[Photo], lora: Path, resolution: int) -> float:
    """Return the mean square by which a LoRA changes the base's predictions for class captions, at fixed noise."""
    samples, _ = encode_photos(base, photos, resolution)
    texts = encode_captions(base, [photo.class_caption or "" for photo in photos])
    family, times = base.family, base.family.even_times(base.parts, len(samples))

    def predicted() -> torch.Tensor:
        predictions = []
        for i, sample in enumerate(samples):
            noise = torch.randn(sample.latents.shape, generator=torch.Generator().manual_seed(i))
            noised, _ = family.noised_input_and_target(base.parts, sample.latents, noise, times[i : i + 1])
            text = texts[sample.photo.class_caption or ""]
            predictions.append(predict(base, noised, times[i : i + 1], text, sample.grid))
        return torch.cat(predictions)

    alone = predicted()
    with attach.attached(base.denoiser, [(load_fitting(lora, base.family.name, base.denoiser), 1.0)]):
        return float((predicted() - alone).square().mean())


@pytest.mark.parametrize(
    ("family", "least", "most", "mean"),
    [
        ("flux", (0, 0.2), (0.8, 1), (0.5, 0.7)),  # shifted towards noise, as it draws at this size
        ("klein", (0, 0.2), (0.8, 1), (0.5, 0.7)),  # shifted in the same way
        ("qwen-image", (0, 0.2), (0.8, 1), (0.5, 0.7)),  # in the same way
        ("sd15", (-1, 10), (989, 1000), (450, 550)),  # uniform
        ("z-image", (0, 0.2), (0.8, 1), (0.25, 0.4)),  # uniform, shifted towards noise, which is 0
    ],
    indirect=["family"],
)
def test_times_cover_the_schedule(
    base: Base,
    batch_of: Callable[..., Batch],
    least: tuple[float, float],
    most: tuple[float, float],
    mean: tuple[float, float],
) -> None:
    times = torch.cat([batch_of(step).time for step in range(200)]).double()
    for value, (low, high) in ((times.min(), least), (times.max(), most), (times.mean(), mean)):
        assert low < value < high
    even = base.family.even_times(base.parts, 8).double()
    assert least[0] < even.min() < even.max() < most[1]
    assert (even.diff() > 0).all()


def test_a_fresh_lora_changes_nothing(base: Base, batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(0)
    with torch.no_grad():
        without = sample_losses(base, batch)
        with base.family.new_lora(base.parts, 4, torch.Generator().manual_seed(0)):
            assert torch.equal(sample_losses(base, batch), without)


def test_gradient_checkpointing_changes_nothing_but_memory(base: Base, batch_of: Callable[..., Batch]) -> None:
    denoiser = base.denoiser
    gradients = []
    for spare in (False, True):
        with base.family.new_lora(base.parts, 4, torch.Generator().manual_seed(0)) as lora:
            if spare:
                denoiser.enable_gradient_checkpointing()
            sample_losses(base, batch_of(1, preservation=0.5)).mean().backward()
            gradients.append([weights.grad for weights in lora.values()])
    assert not denoiser.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    "family",
    [name if name in LEARN_SOONEST else pytest.param(name, marks=pytest.mark.slow) for name in EVERY_FAMILY],
    indirect=True,
    scope="session",
)
def test_a_lora_predicts_its_person_better_than_no_lora_and_than_another_persons(
    base: Base, quick_config: LoraConfig, learnt: TrainedLora, take_photos: Callable[..., list[Photo]], tmp_path: Path
) -> None:
    others = take_photos("other", seed=1, count=12)
    theirs = finish(train(base, others, quick_config, Run(tmp_path)))
    held_out = take_photos("example", seed=7, count=6)
    loss = {
        name: held_out_loss(base, held_out, path, resolution=quick_config.resolutions[0])
        for name, path in (("none", None), ("own", learnt.path), ("theirs", theirs.path))
    }
    assert loss["own"] < 0.6 * loss["none"]
    assert loss["own"] < 0.95 * loss["theirs"]


def test_the_held_out_loss_is_the_same_each_time(base: Base, trained: TrainedLora, photos: list[Photo]) -> None:
    one, again, other = (
        held_out_loss(base, photos[:2], trained.path, draws=4, resolution=64, seed=seed) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_in_bfloat16_as_on_a_gpu_a_training_runs_and_its_lora_is_bfloat16(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    half = models.load(base.folder, "cpu", torch.bfloat16)
    config = lora_config(steps=6, rank=4, learning_rate=1e-2, resolution=32)
    trained = finish(train(half, of_a_class(photos[:4]), config, Run(tmp_path)))
    written = load_file(trained.path).items()
    assert {weights.dtype for name, weights in written if not name.endswith(".alpha")} == {torch.bfloat16}
    with_it, without = (held_out_loss(half, photos[:2], path, draws=2, resolution=32) for path in (trained.path, None))
    assert with_it < without


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"rank": 0},
        {"learning_rate": 0.0},
        {"batch_size": 0},
        {"caption_dropout": 1.5},
        {"preservation": 2},
        {"resolutions": ()},
        {"resolutions": (0, 64)},
        {"resolutions": (96, 64)},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(
    base: Base, photos: list[Photo], tmp_path: Path, change: dict[str, float]
) -> None:
    config = replace(lora_config(steps=1), **change)
    with pytest.raises(BadInput, match=next(iter(change))):
        next(train(base, photos, config, Run(tmp_path)))


def test_no_photos_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        next(train(base, [], lora_config(steps=1), Run(tmp_path)))


@pytest.mark.parametrize(("photo_count", "steps"), [(1, 800), (15, 1500), (60, 2500)])
def test_flux_trains_a_hundred_steps_per_photo_within_bounds(photo_count: int, steps: int) -> None:
    assert FAMILIES["flux"].training_defaults.steps(photo_count) == steps

"""What a training step reads: photos and captions, encoded once, then drawn by (seed, step, sample) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.ml.models import Base
from worker.ml.photos.fitting import buckets, read_fitted
from worker.ml.photos.opening import UnusablePhoto
from worker.ml.protocol import Condition, Framing, Grid
from worker.ml.train.config import LoraConfig
from worker.ml.train.order import members_of_step
from worker.ml.train.seeds import seeded


@dataclass(frozen=True)
class Photo:
    """A photo and what it shows, in words."""

    path: Path
    caption: str
    class_caption: str | None = None
    """The caption with the class ("a person") in place of the trigger word; None: never drawn for preservation."""
    refused: str | None = None
    """Why it cannot be used, if that is known before it is read."""

    @property
    def captions(self) -> list[str]:
        return [self.caption] if self.class_caption is None else [self.caption, self.class_caption]


@dataclass(frozen=True)
class Sample:
    """A photo as the training loop sees it."""

    latents: torch.Tensor  # (1, …), float32, on the device
    grid: Grid
    photo: Photo
    framing: Framing
    turns: tuple[int, ...] = (0,)
    """The resolutions, counted from 0, in whose turn it is trained: its own, and, if it is the photo's largest, those
    that the photo does not reach.
    """
    enlarged: bool = False


@dataclass(frozen=True)
class TrainingData:
    """Encoded photos, and the encoded text of each of their captions and of the empty one."""

    samples: Sequence[Sample]
    texts: Mapping[str, Condition]

    @property
    def photos(self) -> list[Photo]:
        """Each photo once, at however many resolutions it is trained."""
        return [sample.photo for sample in self.samples if 0 in sample.turns]


@dataclass(frozen=True)
class Batch:
    latents: torch.Tensor  # (B, …)
    noise: torch.Tensor  # the shape of the latents
    time: torch.Tensor  # (B,), in the family's own unit
    text: Condition
    grid: Grid
    preserved: torch.Tensor  # (B,) bool, on the CPU: the target is the base's prediction without the LoRA


def encode_photos(base: Base, photos: Sequence[Photo], *resolutions: int) -> tuple[list[Sample], list[UnusablePhoto]]:
    """Encode photos to latents, each at the aspect bucket of every resolution that it reaches, from the lowest up.

    Return those that cannot be used beside them. See `read_fitted` for what a photo reaches.
    """
    family, token_px = base.family, base.family.token_px(base.parts)
    base.place(family.autoencoder, alone=True)
    ladder = [buckets(resolution, token_px) for resolution in resolutions]
    samples, unusable = [], []
    for photo in photos:
        try:
            if photo.refused is not None:
                raise UnusablePhoto(photo.path, photo.refused)
            fitted = read_fitted(photo.path, ladder)
        except UnusablePhoto as error:
            unusable.append(error)
            continue
        largest = len(fitted.pixels) - 1
        for rung, (pixels, framing) in enumerate(zip(fitted.pixels, fitted.framings, strict=True)):
            height, width, _ = pixels.shape
            signal = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(base.device).float() / 127.5 - 1
            latents = family.encode_picture(base.parts, signal)
            turns = (rung,) if rung < largest else tuple(range(rung, len(ladder)))
            grid = height // token_px, width // token_px
            samples.append(Sample(latents, grid, photo, framing, turns, fitted.enlarged))
    return samples, unusable


def encode_captions(base: Base, captions: Sequence[str]) -> dict[str, Condition]:
    """Encode every caption once, and the empty one that caption dropout uses."""
    base.place(*base.family.encoders, alone=True)
    return {
        caption: base.family.encode_prompts(base.parts, [caption], base.device)
        for caption in dict.fromkeys([*captions, ""])
    }


def draw_batch(base: Base, data: TrainingData, config: LoraConfig, step: int) -> Batch:
    """Draw the batch of a step, counted from 0.

    Of the samples with a class caption, the share `config.preservation` is preserved. At step 0 none is: a fresh LoRA
    changes nothing, and the loss curve begins with a photo.
    """
    chosen = members_of_step(_by_turn_and_grid(data.samples), config.batch_size, config.seed, step)
    members = [data.samples[index] for index in chosen]
    grid = members[0].grid
    noise, times, texts, preserved = [], [], [], []
    for place, sample in enumerate(members):
        generator = seeded("sample", config.seed, step, place)
        # The order of the four draws is fixed: it decides what a seed means.
        dropped = float(torch.rand((), generator=generator)) < config.caption_dropout
        times.append(base.family.sample_timestep(base.parts, grid, generator))
        noise.append(torch.randn(sample.latents.shape, generator=generator))
        preserve = float(torch.rand((), generator=generator)) < config.preservation and step > 0
        class_caption = sample.photo.class_caption if preserve else None
        preserved.append(class_caption is not None)
        if class_caption is not None:
            texts.append(data.texts[class_caption])
        else:
            texts.append(data.texts["" if dropped else sample.photo.caption])
    return Batch(
        latents=torch.cat([sample.latents for sample in members]),
        noise=torch.cat(noise).to(base.device),
        time=torch.cat(times).to(base.device),
        text=base.family.frame(texts[0].join(texts[1:]), [sample.framing for sample in members]),
        grid=grid,
        preserved=torch.tensor(preserved),
    )


def select_samples(batch: Batch, mask: torch.Tensor) -> Batch:
    """Return a batch of the samples where the mask is true: (B,) bool, on the CPU."""
    return Batch(
        latents=batch.latents[mask],
        noise=batch.noise[mask],
        time=batch.time[mask],
        text=batch.text.take(mask),
        grid=batch.grid,
        preserved=batch.preserved[mask],
    )


def _by_turn_and_grid(samples: Sequence[Sample]) -> list[list[list[int]]]:
    """Return, for each turn, the indices of its samples of each picture size."""
    turns: dict[int, dict[Grid, list[int]]] = {}
    for index, sample in enumerate(samples):
        for turn in sample.turns:
            turns.setdefault(turn, {}).setdefault(sample.grid, []).append(index)
    return [[turns[turn][grid] for grid in sorted(turns[turn])] for turn in sorted(turns)]

"""What a training step sees: photos and captions encoded once, then drawn by (seed, step, sample) alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.ml import photos
from worker.ml.architectures.architecture import Grid, Text
from worker.ml.base_models import Base
from worker.ml.photos import UnusablePhoto


@dataclass(frozen=True)
class Photo:
    """A photo and what it shows, in words."""

    path: Path
    caption: str
    class_caption: str | None = None
    """The caption with anybody in the person's place; None: never preserved."""
    refused: str | None = None
    """What is wrong with it, if that is known before it is read."""

    @property
    def captions(self) -> list[str]:
        return [self.caption] if self.class_caption is None else [self.caption, self.class_caption]


@dataclass(frozen=True)
class Sample:
    """A photo as the training loop sees it."""

    latents: torch.Tensor  # (1, …), float32, on the device
    grid: Grid
    photo: Photo


@dataclass(frozen=True)
class Batch:
    latents: torch.Tensor  # (B, …)
    noise: torch.Tensor  # as the latents
    time: torch.Tensor  # (B,), in the family's own unit
    text: Text
    grid: Grid
    preserved: torch.Tensor  # (B,) bool, on the CPU: what the base says without the LoRA is their target


def seeded(*key: str | int) -> torch.Generator:
    """A CPU generator for this key and no other: the same draws on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little", signed=True))


def encode_photos(base: Base, pictures: Sequence[Photo], resolution: int) -> tuple[list[Sample], list[UnusablePhoto]]:
    """Photos to latents, each at its aspect bucket, and what is wrong with those that cannot be used."""
    architecture, token_px = base.architecture, base.architecture.token_px(base.parts)
    base.place(architecture.autoencoder, alone=True)
    sizes = photos.buckets(resolution, token_px)
    samples, unusable = [], []
    for picture in pictures:
        try:
            if picture.refused is not None:
                raise UnusablePhoto(picture.path, picture.refused)
            pixels = photos.read_fitted(picture.path, sizes)
        except UnusablePhoto as error:
            unusable.append(error)
            continue
        height, width, _ = pixels.shape
        signal = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(base.device).float() / 127.5 - 1
        latents = architecture.encode_picture(base.parts, signal)
        samples.append(Sample(latents, (height // token_px, width // token_px), picture))
    return samples, unusable


def encode_captions(base: Base, captions: Sequence[str]) -> dict[str, Text]:
    """Every caption once, and the empty one that caption dropout uses."""
    base.place(*base.architecture.encoders, alone=True)
    return {
        caption: base.architecture.encode_prompts(base.parts, [caption], base.device)
        for caption in dict.fromkeys([*captions, ""])
    }


def draw_batch(
    base: Base,
    samples: Sequence[Sample],
    texts: Mapping[str, Text],
    *,
    step: int,
    seed: int,
    batch_size: int,
    caption_dropout: float,
    preservation: float,
) -> Batch:
    """The batch of a step, counted from 0.

    A share of the samples that have a class caption is preserved, `preservation`. At step 0 none is: a fresh LoRA
    changes nothing, and the loss curve begins with a photo.
    """
    members = [samples[i] for i in _members(samples, step=step, seed=seed, batch_size=batch_size)]
    grid = members[0].grid
    noise, times, chosen, preserved = [], [], [], []
    for place, sample in enumerate(members):
        generator = seeded("sample", seed, step, place)
        dropped = float(torch.rand((), generator=generator)) < caption_dropout
        times.append(base.architecture.sample_timestep(base.parts, grid, generator))
        noise.append(torch.randn(sample.latents.shape, generator=generator))
        keep = float(torch.rand((), generator=generator)) < preservation and step > 0
        class_caption = sample.photo.class_caption if keep else None
        preserved.append(class_caption is not None)
        if class_caption is not None:
            chosen.append(texts[class_caption])
        else:
            chosen.append(texts["" if dropped else sample.photo.caption])
    return Batch(
        latents=torch.cat([sample.latents for sample in members]),
        noise=torch.cat(noise).to(base.device),
        time=torch.cat(times).to(base.device),
        text=stack(chosen),
        grid=grid,
        preserved=torch.tensor(preserved),
    )


def select_samples(batch: Batch, places: torch.Tensor) -> Batch:
    """The samples at these places: (B,) bool, on the CPU."""
    return Batch(
        latents=batch.latents[places],
        noise=batch.noise[places],
        time=batch.time[places],
        text=Text(batch.text.tokens[places], batch.text.pooled[places]),
        grid=batch.grid,
        preserved=batch.preserved[places],
    )


def stack(texts: Sequence[Text]) -> Text:
    return Text(torch.cat([text.tokens for text in texts]), torch.cat([text.pooled for text in texts]))


def _members(samples: Sequence[Sample], *, step: int, seed: int, batch_size: int) -> list[int]:
    """Which photos a step takes: each once an epoch, shuffled, in batches of one size (the last may be short)."""
    by_grid: dict[Grid, list[int]] = {}
    for i, sample in enumerate(samples):
        by_grid.setdefault(sample.grid, []).append(i)
    an_epoch = sum(math.ceil(len(group) / batch_size) for group in by_grid.values())
    epoch, place = divmod(step, an_epoch)
    generator = seeded("order", seed, epoch)
    batches = []
    for grid in sorted(by_grid):
        shuffled = [by_grid[grid][i] for i in torch.randperm(len(by_grid[grid]), generator=generator).tolist()]
        batches += [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]
    return batches[int(torch.randperm(an_epoch, generator=generator)[place])]

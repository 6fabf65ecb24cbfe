"""LoRA training: one small loop over cached latents and text.

Order, time, noise, caption dropout and preservation derive from (seed, step, sample) alone. A checkpoint therefore
holds no random state, and a resumed run equals the uninterrupted one, bit for bit on a CPU.

Preservation: left to itself, a LoRA makes everybody look like its person, asked for or not. So for a share of the
samples the caption names the class ("a person") in the place of the trigger word, and the target is what the base says
without the LoRA about the same noised latents and words. AI Toolkit (ostris) calls it differential output preservation.
DreamBooth's prior preservation (arXiv 2208.12242, 3.2) is older: it trains on pictures that the base drew of the class.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from worker.ml import lora_files
from worker.ml.base_models import Base
from worker.ml.batches import (
    Batch,
    Photo,
    Sample,
    draw_batch,
    encode_captions,
    encode_photos,
    seeded,
    select_samples,
    stack,
)
from worker.ml.checkpoints import read_checkpoint, write_checkpoint
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.phases import Phase
from worker.ml.photos import UnusablePhoto, summarize_unusable

WEIGHT_DECAY = 1e-4  # diffusers' dreambooth scripts
MAX_GRAD_NORM = 1.0  # the same


@dataclass(frozen=True)
class LoraConfig:
    """Settings of one training; a family's published ones are `Architecture.training_defaults`."""

    steps: int | None = None  # None: the family's number for so many photos
    rank: int = 16
    learning_rate: float = 1e-4
    resolution: int = 512
    batch_size: int = 1
    seed: int = 0
    caption_dropout: float = 0.05
    preservation: float = 0.25  # the share of samples, of those with a class caption


@dataclass(frozen=True)
class PhotosSkipped:
    """The training goes on without these photos."""

    photos: tuple[UnusablePhoto, ...]
    summary: str
    """How many of how many, and names with reasons, in words a person reads."""


@dataclass(frozen=True)
class Step:
    """One step done.

    `loss` is the mean over the step's photos, so that curves with and without preservation compare: preserved samples
    are left out, and a step that had no others repeats the loss before it.
    """

    index: int  # steps done, from 1
    total: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Checkpoint:
    """All that this training needs to go on elsewhere, in one file. The newest two are kept."""

    step: int
    path: Path


@dataclass(frozen=True)
class TrainedLora:
    path: Path
    rank: int
    steps: int
    final_loss: float  # mean over the last tenth of the steps
    losses: Path  # JSON: [[step, loss], …] from step 1, also after a resume; losses as `Step` has them
    photos: int  # that it learnt from
    sha256: str
    peak_gib: float | None  # of device memory; None on a CPU
    seconds: dict[str, float]  # of this run: encode, train


def train(
    base: Base,
    photos: Sequence[Photo],
    config: LoraConfig,
    *,
    workdir: Path,
    metadata: Mapping[str, str],
    resume_from: Path | None = None,
    checkpoint_every_s: float = 120.0,
    checkpoint_every_steps: int | None = None,
    fewest_photos: int = 1,
) -> Generator[PhotosSkipped | Phase | Step | Checkpoint, None, TrainedLora]:
    """Train a LoRA and leave it in `workdir/lora.safetensors`. To stop, stop iterating: the base is as it was.

    `metadata` is what the file should say beside the settings, see `file_metadata`.
    Photos that cannot be used are left out. A checkpoint that is damaged or of another training (of another set of
    usable photos, say) is left aside, and the training starts again.
    Raises BadInput (fewer usable photos than `fewest_photos`, a setting, a loss that ran away).
    """
    _check(photos, config)
    architecture, parts, started = base.architecture, base.parts, time.monotonic()
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)

    yield Phase("encoding photos")
    samples, unusable = encode_photos(base, photos, config.resolution)
    if len(samples) < fewest_photos:
        raise BadInput(
            f"training needs at least {fewest_photos} photographs that can be used, there are {len(samples)}: "
            f"{summarize_unusable(unusable)}"
        )
    if unusable:
        summary = f"{len(unusable)} of {len(photos)} photographs cannot be used: {summarize_unusable(unusable)}"
        yield PhotosSkipped(tuple(unusable), summary)
    photos = [sample.photo for sample in samples]
    steps = config.steps or architecture.training_defaults.steps(len(photos))
    config = replace(config, steps=steps)

    yield Phase("encoding captions")
    texts = encode_captions(base, [caption for photo in photos for caption in photo.captions])
    base.place(architecture.denoiser, alone=True)  # the encoders have done their work

    encoded = saved = time.monotonic()
    with architecture.new_lora(parts, config.rank, seeded("init", config.seed)) as lora:
        _spare_memory(base, samples, config)
        optimizer = _optimizer(base, lora, config)
        identity = _identity(base, photos, config, optimizer)
        losses: list[float] = []
        if resume_from is not None:
            try:
                losses = read_checkpoint(resume_from, identity, lora, optimizer)
            except ModelUnreadable as error:  # photos, settings or optimizer changed between two attempts
                yield Phase(f"starting again: {error}")
        yield Phase("training")

        for step in range(len(losses), steps):
            batch = draw_batch(
                *(base, samples, texts),
                step=step,
                seed=config.seed,
                batch_size=config.batch_size,
                caption_dropout=config.caption_dropout,
                preservation=config.preservation,
            )
            loss = sample_losses(base, batch)
            loss.mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(lora.values(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            loss = loss.detach().cpu()  # the one place in a step that waits for the GPU
            if not loss.isfinite().all():
                raise BadInput(f"training ran away at step {step + 1}: choose a lower learning_rate")
            losses.append(losses[-1] if batch.preserved.all() else loss[~batch.preserved].mean().item())
            yield Step(step + 1, steps, losses[-1], config.learning_rate)

            due = time.monotonic() - saved >= checkpoint_every_s
            due |= checkpoint_every_steps is not None and (step + 1) % checkpoint_every_steps == 0
            if due and step + 1 < steps:
                saved = time.monotonic()
                with suppress(OSError):  # a full disk costs a checkpoint, not the training
                    yield Checkpoint(step + 1, write_checkpoint(workdir, identity, losses, lora, optimizer))

        trained = {name: weights.detach().to(base.dtype) for name, weights in lora.items()}

    path, loss_file = workdir / "lora.safetensors", workdir / "losses.json"
    loss_file.write_text(json.dumps(list(enumerate(losses, start=1))), "utf-8")
    last = losses[-max(1, steps // 10) :]
    return TrainedLora(
        path=path,
        rank=config.rank,
        steps=steps,
        final_loss=sum(last) / len(last),
        losses=loss_file,
        photos=len(photos),
        sha256=lora_files.write(path, trained, file_metadata(base, config, len(photos), metadata)),
        peak_gib=torch.cuda.max_memory_allocated(base.device) / 2**30 if base.device.type == "cuda" else None,
        seconds={"encode": encoded - started, "train": time.monotonic() - encoded},
    )


def training_loss(base: Base, batch: Batch) -> torch.Tensor:
    """The mean of `sample_losses`: a scalar on the device."""
    return sample_losses(base, batch).mean()


def sample_losses(base: Base, batch: Batch) -> torch.Tensor:
    """Mean squared error of each sample's prediction (B,), weighted as the family does, in float32 on the device."""
    architecture = base.architecture
    seen, target = architecture.noised_input_and_target(base.parts, batch.latents, batch.noise, batch.time)
    if batch.preserved.any():
        target = target.clone()
        with torch.no_grad(), _lora_off(base):
            target[batch.preserved] = _predict(base, seen[batch.preserved], select_samples(batch, batch.preserved))
    errors = F.mse_loss(_predict(base, seen, batch), target, reduction="none").flatten(1).mean(1)
    return architecture.loss_weights(base.parts, batch.time) * errors


def _predict(base: Base, seen: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What the denoiser says of noised latents (B, …), in float32."""
    with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
        predicted = base.architecture.predict(
            base.parts,
            seen.to(base.dtype),
            batch.time,
            batch.text,
            batch.grid,
            base.architecture.training_guidance,
        )
    return predicted.float()


@contextmanager
def _lora_off(base: Base) -> Iterator[None]:
    denoiser = _denoiser(base)
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()


def _denoiser(base: Base) -> Any:
    """A diffusers model, as every family's is."""
    return base.architecture.modules(base.parts)[base.architecture.denoiser]


@torch.no_grad()
def held_out_loss(
    base: Base,
    photos: Sequence[Photo],
    lora: Path | None,
    *,
    seed: int = 0,
    draws: int = 8,
    resolution: int = 512,
) -> float:
    """Mean loss on photos that the LoRA has not seen, at fixed noise and `draws` evenly spaced times a photo.

    The LoRA is loaded from its file as for drawing. Raises BadInput (a photo) and ModelUnreadable (the LoRA).
    """
    samples, unusable = encode_photos(base, photos, resolution)
    if unusable:
        raise unusable[0]
    texts = encode_captions(base, [photo.caption for photo in photos])
    base.place(base.architecture.denoiser, alone=True)
    times = base.architecture.even_times(base.parts, draws)
    losses = []
    with base.architecture.loras(base.parts, [(lora, 1.0)] if lora else []):
        for i, sample in enumerate(samples):
            noise = torch.randn((draws, *sample.latents.shape[1:]), generator=seeded("held out", seed, i))
            batch = Batch(
                latents=torch.cat([sample.latents] * draws),
                noise=noise.to(base.device),
                time=times.to(base.device),
                text=stack([texts[sample.photo.caption]] * draws),
                grid=sample.grid,
                preserved=torch.zeros(draws, dtype=torch.bool),
            )
            losses.append(float(training_loss(base, batch)))
    return sum(losses) / len(losses)


def file_metadata(base: Base, config: LoraConfig, photo_count: int, said: Mapping[str, str]) -> dict[str, str]:
    """The LoRA file's own words, in the names that other tools show (modelspec, sd-scripts).

    `said` may hold `base` (the slug), `trigger_word`, `title` and `date` (ISO 8601), and nothing else: a person's name
    has no place to go.
    """
    unknown = said.keys() - {"base", "trigger_word", "title", "date"}
    if unknown:
        raise ValueError(f"a LoRA file has no place for {sorted(unknown)}")
    slug, title = said.get("base", base.folder.name), said.get("title", "lora")
    metadata = {
        **base.architecture.lora_metadata(base.parts),
        "base": slug,
        "family": base.family,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": title,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "ss_v2": "False",
        "ss_sd_model_name": slug,
        "ss_output_name": title,
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": str(config.rank),
        "ss_steps": str(config.steps),
        "ss_learning_rate": str(config.learning_rate),
        "ss_resolution": str((config.resolution, config.resolution)),
        "ss_total_batch_size": str(config.batch_size),
        "ss_caption_dropout_rate": str(config.caption_dropout),
        "ss_num_train_images": str(photo_count),
        "ss_seed": str(config.seed),
    }
    if "date" in said:
        metadata["modelspec.date"] = said["date"]
    if "trigger_word" in said:
        word = said["trigger_word"]
        metadata |= {
            "trigger_word": word,
            "modelspec.trigger_phrase": word,
            "ss_tag_frequency": json.dumps({f"1_{word}": {word: photo_count}}),
        }
    return metadata


def _check(photos: Sequence[Photo], config: LoraConfig) -> None:
    if not photos:
        raise BadInput("there are no photos to train on")
    for name in ("steps", "rank", "resolution", "batch_size"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise BadInput(f"{name} must be at least 1")
    if not 0 < config.learning_rate < math.inf:
        raise BadInput("learning_rate must be above 0")
    for name in ("caption_dropout", "preservation"):
        if not 0 <= getattr(config, name) <= 1:
            raise BadInput(f"{name} is a share: 0 to 1")


def _spare_memory(base: Base, samples: Sequence[Sample], config: LoraConfig) -> None:
    """Gradient checkpointing, which costs about a third of the speed, only where a step would not fit without it."""
    if base.device.type != "cuda":
        return
    torch.cuda.empty_cache()  # the encoders' memory is free now
    free = torch.cuda.mem_get_info(base.device)[0]
    largest = max((sample.grid for sample in samples), key=math.prod)
    if base.architecture.activation_bytes(base.parts, largest, config.batch_size) > 0.8 * free:
        _denoiser(base).enable_gradient_checkpointing()


def _optimizer(base: Base, lora: Mapping[str, torch.nn.Parameter], config: LoraConfig) -> torch.optim.Optimizer:
    """8-bit AdamW where the `gpu` extra is installed and there is a GPU, else torch's."""
    weights = list(lora.values())
    if base.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        adamw: type[torch.optim.Optimizer] = importlib.import_module("bitsandbytes").optim.AdamW8bit
        return adamw(weights, lr=config.learning_rate, weight_decay=WEIGHT_DECAY)  # type: ignore[call-arg]
    return torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)


def _identity(
    base: Base, photos: Sequence[Photo], config: LoraConfig, optimizer: torch.optim.Optimizer
) -> dict[str, str]:
    """What must be the same for a checkpoint to go on."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(hashlib.sha256(photo.path.read_bytes()).digest())
        for caption in photo.captions:
            digest.update(hashlib.sha256(caption.encode()).digest())
    return {
        "base": base.folder.name,
        "photos": digest.hexdigest(),
        "settings": json.dumps(asdict(config), sort_keys=True),
        "optimizer": type(optimizer).__name__,
    }

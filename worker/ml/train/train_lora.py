"""LoRA training: one small loop over cached latents and text.

Order, time, noise, caption dropout and preservation derive from (seed, step, sample) alone. A checkpoint therefore
holds no random state, and a resumed run equals the uninterrupted one, bit for bit on a CPU.

Preservation: without it, a LoRA makes every person look like its own, also in prompts that do not name them. So for a
share of the samples the caption has the class ("a person") in place of the trigger word, and the target is the base's
prediction without the LoRA for the same noised latents and caption. AI Toolkit (ostris) calls it differential output
preservation. DreamBooth's prior preservation (arXiv 2208.12242, 3.2) is older: it trains on pictures of the class that
the base drew.
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
from typing import cast

import torch
import torch.nn.functional as F

from worker.ml.adapters import files as lora_files
from worker.ml.errors import BadInput, ModelUnreadable, PrecisionUnsupported
from worker.ml.models import Base
from worker.ml.phases import Phase
from worker.ml.photos import UnusablePhoto, summarize_unusable
from worker.ml.protocol import Inputs, Side
from worker.ml.train.batches import (
    Batch,
    Photo,
    Sample,
    TrainingData,
    draw_batch,
    encode_captions,
    encode_photos,
    seeded,
    select_samples,
)
from worker.ml.train.checkpoints import LoopState, read_checkpoint, write_checkpoint
from worker.ml.train.config import LoraConfig as LoraConfig  # for callers, who need nothing else to train

WEIGHT_DECAY = 1e-4  # diffusers' dreambooth scripts
MAX_GRAD_NORM = 1.0  # the same


@dataclass(frozen=True)
class PhotosSkipped:
    """The training continues without these photos."""

    photos: tuple[UnusablePhoto, ...]
    summary: str
    """For a person: how many of how many, and the first few names with reasons."""


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
    """All that this training needs to resume elsewhere, in one file. The newest two are kept."""

    step: int
    path: Path


@dataclass(frozen=True)
class TrainedLora:
    path: Path
    rank: int
    steps: int
    final_loss: float  # mean over the last tenth of the steps
    losses: Path  # JSON: [[step, loss], …] from step 1, also after a resume; losses as in `Step`
    photos: int  # the number it was trained on
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
    """Train a LoRA and write it to `workdir/lora.safetensors`. To stop, stop iterating: the base is left unchanged.

    `metadata` goes into the file beside the settings, see `file_metadata`. Photos that cannot be used are skipped. A
    checkpoint that is damaged or belongs to another training (with other usable photos, for example) is ignored, and
    the training starts again.
    Raises PrecisionUnsupported, and BadInput: fewer usable photos than `fewest_photos`, an impossible setting, or a
    loss that diverged.
    """
    config.check()
    if base.dtype not in base.family.training_dtypes:
        raise PrecisionUnsupported(
            f"{base.folder.name} cannot be trained in float16: it needs a GPU with bfloat16 (NVIDIA: compute "
            "capability 8.0 or newer)"
        )
    if not photos:
        raise BadInput("there are no photos to train on")
    started = time.monotonic()
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)

    data = yield from _encode(base, photos, config.resolution, fewest_photos)
    photo_count = len(data.samples)
    config = replace(config, steps=config.steps or base.family.training_defaults.steps(photo_count))

    encoded = time.monotonic()
    checkpoints = _CheckpointSchedule(checkpoint_every_s, checkpoint_every_steps)
    with base.family.new_lora(base.parts, config.rank, seeded("init", config.seed)) as lora:
        _save_memory(base, data.samples, config)
        state = LoopState(lora, _optimizer(base, lora, config), losses=[])
        identity = _identity(base, data.samples, config, state.optimizer)
        if resume_from is not None:
            yield from _resume(resume_from, identity, state)
        yield Phase("training")
        for step in _steps(base, data, config, state):
            yield step
            if checkpoints.is_due(step):
                with suppress(OSError):  # a full disk costs a checkpoint, not the training
                    yield Checkpoint(step.index, write_checkpoint(workdir, identity, state))
        weights = {name: parameter.detach().to(base.dtype) for name, parameter in lora.items()}

    path, loss_file = workdir / "lora.safetensors", workdir / "losses.json"
    loss_file.write_text(json.dumps(list(enumerate(state.losses, start=1))), "utf-8")
    return TrainedLora(
        path=path,
        rank=config.rank,
        steps=len(state.losses),
        final_loss=_mean_of_last_tenth(state.losses),
        losses=loss_file,
        photos=photo_count,
        sha256=lora_files.write(path, weights, file_metadata(base, config, photo_count, metadata)),
        peak_gib=torch.cuda.max_memory_allocated(base.device) / 2**30 if base.device.type == "cuda" else None,
        seconds={"encode": encoded - started, "train": time.monotonic() - encoded},
    )


def _encode(
    base: Base, photos: Sequence[Photo], resolution: int, fewest_photos: int
) -> Generator[PhotosSkipped | Phase, None, TrainingData]:
    """Encode photos and captions, and leave the denoiser alone on the device. Raises BadInput: too few photos."""
    yield Phase("encoding photos")
    base.plan({})
    samples, unusable = encode_photos(base, photos, resolution)
    if len(samples) < fewest_photos:
        reasons = f": {summarize_unusable(unusable)}" if unusable else ""
        raise BadInput(f"training needs at least {fewest_photos} usable photos, but there are {len(samples)}{reasons}")
    if unusable:
        summary = f"{len(unusable)} of {len(photos)} photos cannot be used: {summarize_unusable(unusable)}"
        yield PhotosSkipped(tuple(unusable), summary)

    yield Phase("encoding captions")
    texts = encode_captions(base, [caption for sample in samples for caption in sample.photo.captions])
    base.place(base.family.denoiser, alone=True)
    return TrainingData(samples, texts)


def _resume(path: Path, identity: Mapping[str, str], state: LoopState) -> Iterator[Phase]:
    """Put the checkpoint into `state`, or report why the training starts again without it."""
    try:
        read_checkpoint(path, identity, state)
    except ModelUnreadable as error:  # photos, settings or optimizer changed between two attempts
        yield Phase(f"starting again: {error}")


def _steps(base: Base, data: TrainingData, config: LoraConfig, state: LoopState) -> Iterator[Step]:
    """Run the steps that `state` has not done yet. Raises BadInput when the loss diverges."""
    total = config.steps
    assert total is not None  # filled in by `train`
    for step in range(len(state.losses), total):
        batch = draw_batch(base, data, config, step)
        loss = sample_losses(base, batch)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(state.lora.values(), MAX_GRAD_NORM)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

        loss = loss.detach().cpu()  # the one place in a step that waits for the GPU
        if not loss.isfinite().all():
            raise BadInput(f"training diverged at step {step + 1}: use a lower learning_rate")
        only_preserved = bool(batch.preserved.all())
        state.losses.append(state.losses[-1] if only_preserved else loss[~batch.preserved].mean().item())
        yield Step(step + 1, total, state.losses[-1], config.learning_rate)


class _CheckpointSchedule:
    """Decides after which steps a checkpoint is written: by time, and every so many steps where that is asked for."""

    def __init__(self, every_s: float, every_steps: int | None) -> None:
        self._every_s, self._every_steps = every_s, every_steps
        self._last = time.monotonic()

    def is_due(self, step: Step) -> bool:
        """Return True if a checkpoint is due after this step; then the time counts anew. The last step needs none."""
        due = time.monotonic() - self._last >= self._every_s
        due |= self._every_steps is not None and step.index % self._every_steps == 0
        if not due or step.index == step.total:
            return False
        self._last = time.monotonic()
        return True


def _mean_of_last_tenth(losses: Sequence[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def sample_losses(base: Base, batch: Batch) -> torch.Tensor:
    """Return the mean squared error of each sample (B,), weighted as the family does, in float32 on the device."""
    family = base.family
    noised, target = family.noised_input_and_target(base.parts, batch.latents, batch.noise, batch.time)
    if batch.preserved.any():
        target = target.clone()
        with torch.no_grad(), _lora_disabled(base):
            target[batch.preserved] = _predict(base, noised[batch.preserved], select_samples(batch, batch.preserved))
    errors = F.mse_loss(_predict(base, noised, batch), target, reduction="none").flatten(1).mean(1)
    return family.loss_weights(base.parts, batch.time) * errors


def _predict(base: Base, noised: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the denoiser's prediction for noised latents (B, …), in float32."""
    with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
        inputs = Inputs(
            latents=noised.to(base.dtype),
            time=batch.time,
            condition=batch.text,
            grid=batch.grid,
            guidance=base.family.training_guidance,
            sides=cast(tuple[Side, ...], ("wanted",) * len(noised)),
        )
        predicted = base.family.predict(base.parts, inputs)
    return predicted.float()


@contextmanager
def _lora_disabled(base: Base) -> Iterator[None]:
    denoiser = base.denoiser
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()


def file_metadata(base: Base, config: LoraConfig, photo_count: int, given: Mapping[str, str]) -> dict[str, str]:
    """Return what a LoRA file says about itself, in the names that other tools show (modelspec, sd-scripts).

    `given` may hold `base` (the slug), `trigger_word`, `title` and `date` (ISO 8601), and nothing else, so that a
    person's name cannot get into a file. Raises ValueError for another key.
    """
    unknown = given.keys() - {"base", "trigger_word", "title", "date"}
    if unknown:
        raise ValueError(f"a LoRA file's metadata must not hold {sorted(unknown)}")
    slug, title = given.get("base", base.folder.name), given.get("title", "lora")
    metadata = {
        **base.family.lora_metadata(base.parts),
        "base": slug,
        "family": base.family.name,
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
    if "date" in given:
        metadata["modelspec.date"] = given["date"]
    if "trigger_word" in given:
        word = given["trigger_word"]
        metadata |= {
            "trigger_word": word,
            "modelspec.trigger_phrase": word,
            "ss_tag_frequency": json.dumps({f"1_{word}": {word: photo_count}}),
        }
    return metadata


def _save_memory(base: Base, samples: Sequence[Sample], config: LoraConfig) -> None:
    """Enable gradient checkpointing, which costs about a third of the speed, if a step would not fit without it."""
    if base.device.type != "cuda":
        return
    torch.cuda.empty_cache()  # the encoders' memory is free now
    free = torch.cuda.mem_get_info(base.device)[0]
    largest = max((sample.grid for sample in samples), key=math.prod)
    if base.family.activation_bytes(base.parts, largest, config.batch_size) > 0.8 * free:
        base.denoiser.enable_gradient_checkpointing()


def _optimizer(base: Base, lora: Mapping[str, torch.nn.Parameter], config: LoraConfig) -> torch.optim.Optimizer:
    """Return 8-bit AdamW on a GPU where the `gpu` extra is installed, else torch's AdamW."""
    weights = list(lora.values())
    if base.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        adamw: type[torch.optim.Optimizer] = importlib.import_module("bitsandbytes").optim.AdamW8bit
        return adamw(weights, lr=config.learning_rate, weight_decay=WEIGHT_DECAY)  # type: ignore[call-arg]
    return torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)


def _identity(
    base: Base, samples: Sequence[Sample], config: LoraConfig, optimizer: torch.optim.Optimizer
) -> dict[str, str]:
    """Return what must be equal for a checkpoint to be resumed from."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(hashlib.sha256(sample.photo.path.read_bytes()).digest())
        for caption in sample.photo.captions:
            digest.update(hashlib.sha256(caption.encode()).digest())
    return {
        "base": base.folder.name,
        "photos": digest.hexdigest(),
        "settings": json.dumps(asdict(config), sort_keys=True),
        "optimizer": type(optimizer).__name__,
    }

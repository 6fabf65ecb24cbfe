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
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from worker.ml.adapters import files as lora_files
from worker.ml.errors import BadInput, ModelUnreadable, NotFinite, PrecisionUnsupported, is_out_of_memory
from worker.ml.models import Base
from worker.ml.phases import Phase, Underway
from worker.ml.photos.fitting import truncate_list
from worker.ml.photos.opening import UnusablePhoto
from worker.ml.quantise.forms import take_forms
from worker.ml.quantise.nf4 import has_bitsandbytes
from worker.ml.train.batches import Batch, Photo, TrainingData, draw_batch, encode_captions, encode_photos
from worker.ml.train.captions import CaptionsCut, readable
from worker.ml.train.checkpoints import LoopState, read_checkpoint, write_checkpoint
from worker.ml.train.config import LoraConfig as LoraConfig  # for callers, who need nothing else to train
from worker.ml.train.loss import sample_losses
from worker.ml.train.memory import memory_needed, plan_training
from worker.ml.train.metadata import file_metadata
from worker.ml.train.optimizer import adamw
from worker.ml.train.runaway import Watch
from worker.ml.train.schedule import learning_rate
from worker.ml.train.seeds import seeded

MAX_GRAD_NORM = 1.0  # diffusers' dreambooth scripts


@dataclass(frozen=True)
class Run:
    """Where one run of a training works, what it resumes from, and how often it saves."""

    workdir: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Written to the LoRA file beside the settings, see `file_metadata`."""
    resume_from: Path | None = None
    checkpoint_every_s: float = 120.0
    min_photos: int = 1
    """The training is refused if fewer photos can be used."""
    trigger_word: str | None = None
    """Of the captions; put first where an encoder would not read it."""
    class_name: str | None = None
    """What stands in its place in the captions of the class."""
    base_digest: str = ""
    """Of the base's files: a checkpoint of another base in the same folder is not resumed."""


@dataclass(frozen=True)
class PhotosSkipped:
    """The training continues without these photos."""

    photos: tuple[UnusablePhoto, ...]
    summary: str
    """For a person: how many of how many, and the first few names with reasons."""


@dataclass(frozen=True)
class PhotosEnlarged:
    """These photos are smaller than the lowest resolution; they are trained at that."""

    photos: tuple[Path, ...]
    summary: str
    """For a person: how many of how many, and the first few names."""


@dataclass(frozen=True)
class Step:
    """One step done.

    `loss` is the mean over the step's photos, so that curves with and without preservation compare: preserved samples
    are left out. A step that had no others, or whose loss overflowed in fp16, repeats the loss before it.
    """

    index: int  # steps done, from 1
    total: int
    loss: float
    learning_rate: float  # of this step, see `schedule`


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
    memory_plan: str  # in words, with its estimate
    seconds: dict[str, float]  # of this run: encode, train


def train(
    base: Base, photos: Sequence[Photo], config: LoraConfig, run: Run
) -> Generator[CaptionsCut | PhotosSkipped | PhotosEnlarged | Phase | Underway | Step | Checkpoint, None, TrainedLora]:
    """Train a LoRA and write it to `lora.safetensors` in the run's `workdir`.

    To stop, stop iterating: the base is left unchanged. Photos that cannot be used are skipped. A checkpoint that is
    damaged or belongs to another training (with other usable photos, for example) is ignored, and the training starts
    again.
    Raises PrecisionUnsupported (the device), NotFinite (the base), and BadInput: too few usable photos, an impossible
    setting, a loss that diverged, or a LoRA that is worse than none.
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

    photos, cut = readable(base, photos, run.trigger_word, run.class_name)
    if cut is not None:
        yield cut
    encoded = yield from _encode(base, photos, config, run.min_photos)
    data = encoded.data
    photo_count = len(data.photos)
    config = replace(config, steps=config.steps or base.family.training_defaults.steps(photo_count))

    encoded_at = time.monotonic()
    learnt = yield from _learn(base, encoded, config, run)
    path, loss_file = run.workdir / "lora.safetensors", run.workdir / "losses.json"
    loss_file.write_text(json.dumps(list(enumerate(learnt.losses, start=1))), "utf-8")
    return TrainedLora(
        path=path,
        rank=config.rank,
        steps=len(learnt.losses),
        final_loss=_mean_of_last_tenth(learnt.losses),
        losses=loss_file,
        photos=photo_count,
        sha256=lora_files.write(path, learnt.weights, file_metadata(base, config, photo_count, run.metadata)),
        peak_gib=torch.cuda.max_memory_allocated(base.device) / 2**30 if base.device.type == "cuda" else None,
        memory_plan=learnt.memory_plan,
        seconds={"encode": encoded_at - started, "train": time.monotonic() - encoded_at},
    )


@dataclass(frozen=True)
class _Encoded:
    data: TrainingData
    encoder_forms: Mapping[str, str]


def _encode(
    base: Base, photos: Sequence[Photo], config: LoraConfig, min_photos: int
) -> Generator[PhotosSkipped | PhotosEnlarged | Phase | Underway, None, _Encoded]:
    """Encode photos and captions. Raises BadInput: too few photos."""
    yield Phase("encoding photos")
    samples, unusable = encode_photos(base, photos, *config.resolutions)
    usable = len(photos) - len(unusable)
    if usable < min_photos:
        reasons = f": {truncate_list(unusable)}" if unusable else ""
        raise BadInput(f"training needs at least {min_photos} usable photos, but there are {usable}{reasons}")
    if unusable:
        summary = f"{len(unusable)} of {len(photos)} photos cannot be used: {truncate_list(unusable)}"
        yield PhotosSkipped(tuple(unusable), summary)
    if enlarged := tuple(sample.photo.path for sample in samples if sample.enlarged):
        lowest, names = config.resolutions[0], truncate_list([path.name for path in enlarged])
        summary = f"{len(enlarged)} of {usable} photos were too small for {lowest} x {lowest} and enlarged: {names}"
        yield PhotosEnlarged(enlarged, summary)

    forms = base.encoder_forms(base.family.working_bytes(base.parts, samples[0].grid, 1))
    yield from take_forms(base, forms)
    yield Phase("encoding captions")
    texts = encode_captions(base, [caption for sample in samples for caption in sample.photo.captions])
    return _Encoded(TrainingData(samples, texts), forms)


@dataclass(frozen=True)
class _Learnt:
    losses: list[float]  # of all steps
    weights: dict[str, torch.Tensor]  # by name, in the base's precision
    memory_plan: str


def _learn(
    base: Base, encoded: _Encoded, config: LoraConfig, run: Run
) -> Generator[Phase | Underway | Step | Checkpoint, None, _Learnt]:
    """Train a fresh LoRA, or the checkpoint's, with the denoiser alone on the device."""
    data, denoiser = encoded.data, base.family.denoiser
    needs = memory_needed(base, data.samples, config.batch_size, config.rank)
    plan = plan_training(needs, base.free_bytes, eight_bit=has_bitsandbytes())
    yield from take_forms(base, {denoiser: plan.form})
    base.place(denoiser, alone=True)
    with base.family.new_lora(base.parts, config.rank, seeded("init", config.seed)) as lora:
        if plan.savings.checkpointing:
            base.denoiser.enable_gradient_checkpointing()
        state = LoopState(
            lora=lora,
            optimizer=adamw(lora.values(), config.learning_rate, eight_bit=plan.savings.eight_bit),
            scaler=torch.amp.GradScaler(base.device.type, enabled=base.dtype == torch.float16),
            losses=[],
        )
        identity = _identity(run.base_digest or base.folder.name, data.photos, config)
        if run.resume_from is not None:
            yield from _resume(run.resume_from, identity, state)
        watch = Watch(base, data, config)
        yield Phase("training", stepwise=True)
        saved = time.monotonic()
        for event in _steps(base, data, config, state):
            yield event
            if isinstance(event, Step):
                watch.check(event.index)
            due = time.monotonic() - saved >= run.checkpoint_every_s
            if due and isinstance(event, Step) and event.index < event.total:
                with suppress(OSError):  # a full disk costs a checkpoint, not the training
                    yield Checkpoint(event.index, write_checkpoint(run.workdir, identity, state))
                saved = time.monotonic()
        checkpointing = base.denoiser.is_gradient_checkpointing  # it may have been needed later
        plan = replace(plan, savings=replace(plan.savings, checkpointing=checkpointing))
        return _Learnt(
            losses=state.losses,
            weights={name: parameter.detach().to(base.dtype) for name, parameter in lora.items()},
            memory_plan=plan.describe(base.computes_in, {denoiser: plan.form, **encoded.encoder_forms}),
        )


def _resume(path: Path, identity: Mapping[str, str], state: LoopState) -> Iterator[Phase]:
    """Put the checkpoint into `state`, or report why the training starts again without it."""
    try:
        optimizer_lost = read_checkpoint(path, identity, state)
    except ModelUnreadable as error:  # photos or settings changed between two attempts
        yield Phase(f"starting again: {error}")
    else:
        if optimizer_lost is not None:
            yield Phase(f"resuming with a new optimizer: {optimizer_lost}")


def _steps(base: Base, data: TrainingData, config: LoraConfig, state: LoopState) -> Iterator[Phase | Step]:
    """Run the steps that `state` has not done yet. Raises BadInput when the loss diverges."""
    total = config.steps
    assert total is not None  # filled in by `train`
    for step in range(len(state.losses), total):
        rate = learning_rate(step, total, config.learning_rate)
        batch = draw_batch(base, data, config, step)
        losses = yield from _gradients(base, batch, state)
        _update(state, rate)

        losses = losses.cpu()  # the one place in a step that waits for the GPU
        if _diverged(losses, state):
            if not state.losses:  # nothing was learnt yet
                raise NotFinite(
                    f"{base.folder.name} gives numbers that are not finite: {base.fault(base.family.denoiser)}"
                )
            raise BadInput(f"training diverged at step {step + 1}: use a lower learning_rate")
        skipped = batch.preserved.all() or not losses.isfinite().all()
        state.losses.append(state.losses[-1] if skipped else losses[~batch.preserved].mean().item())
        yield Step(step + 1, total, state.losses[-1], rate)


def _gradients(base: Base, batch: Batch, state: LoopState) -> Generator[Phase, None, torch.Tensor]:
    """Compute the gradients of a batch, and return the loss of each sample (B,).

    The first time that they do not fit into memory, they are computed again with gradient checkpointing, which stays
    enabled: the same numbers, at about two thirds of the speed. That may be later than the first step, because sizes
    are trained in turn.
    """
    try:
        return _backward(base, batch, state)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or base.denoiser.is_gradient_checkpointing:
            raise
    # Outside of the handler, where the error's traceback no longer holds the activations.
    state.optimizer.zero_grad(set_to_none=True)
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
    base.denoiser.enable_gradient_checkpointing()
    yield Phase("out of memory: training continues with gradient checkpointing, at about two thirds of the speed")
    yield Phase("training", stepwise=True)
    return _backward(base, batch, state)


def _backward(base: Base, batch: Batch, state: LoopState) -> torch.Tensor:
    losses = sample_losses(base, batch)
    state.scaler.scale(losses.mean()).backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def _update(state: LoopState, rate: float) -> None:
    """Take the optimizer's step with clipped gradients; in fp16, skip it if one of them overflowed."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.lora.values(), MAX_GRAD_NORM)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)


def _diverged(losses: torch.Tensor, state: LoopState) -> bool:
    """Return True if the losses of a step (B,) cannot be those of a training that learns.

    In fp16 an overflow is expected: it skips the step and halves the loss scale, from 65536. If it is still there at a
    scale below 1, or before anything was learnt, the scale is not the reason.
    """
    if state.scaler.is_enabled() and state.losses:
        return state.scaler.get_scale() < 1
    return not losses.isfinite().all()


def _mean_of_last_tenth(losses: Sequence[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _identity(base: str, photos: Sequence[Photo], config: LoraConfig) -> dict[str, str]:
    """Return what must be equal for a checkpoint to be resumed from.

    Not the optimizer's kind, the precision or the forms of parts: a pod with more or less memory resumes too.
    """
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(hashlib.sha256(photo.path.read_bytes()).digest())
        for caption in photo.captions:
            digest.update(hashlib.sha256(caption.encode()).digest())
    return {
        "base": base,
        "photos": digest.hexdigest(),
        "settings": json.dumps(asdict(config), sort_keys=True),
    }

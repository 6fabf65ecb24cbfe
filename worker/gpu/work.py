"""What a task does on the GPU: the messages of `messages.py` on one side, `ml` on the other."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from worker import errors
from worker.gpu.messages import (
    CheckpointSaved,
    Failed,
    GenerateTask,
    Phase,
    PhotosSkipped,
    Progress,
    Ready,
    SkippedPhoto,
    Task,
    TrainTask,
    Work,
)
from worker.ml import base_models, train_lora, upscale
from worker.ml import generate as pictures
from worker.ml.batches import Photo
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.phases import Phase as MlPhase

STEPWISE = frozenset({"training", "drawing"})
"""The phases of `ml` that go in steps."""


class Models:
    """The models that stay loaded from task to task."""

    def __init__(self) -> None:
        self._bases = base_models.Resident()
        self._upscalers: dict[Path, upscale.Upscaler] = {}

    def ready(self) -> Ready:
        if not torch.cuda.is_available():
            return Ready(pid=os.getpid(), device="cpu", vram_gib=None)
        gpu = torch.cuda.get_device_properties(0)
        return Ready(pid=os.getpid(), device=gpu.name, vram_gib=gpu.total_memory / 2**30)

    def base(self, folder: Path) -> base_models.Base:
        """Raises ModelMissing when the folder is not a base model that can be used."""
        try:
            return self._bases.get(folder)
        except ModelUnreadable as error:
            raise errors.ModelMissing(f"this pod cannot use the base model {folder.name}; its log says why") from error

    def upscaler(self, path: Path) -> upscale.Upscaler:
        """Raises ModelMissing when the file is not an upscaler that can be used."""
        if path not in self._upscalers:
            try:
                self._upscalers[path] = upscale.load(path)
            except ModelUnreadable as error:
                raise errors.ModelMissing(
                    f"this pod cannot use the upscaler {path.parent.name}; its log says why"
                ) from error
        return self._upscalers[path]


def begin(task: Task, models: Models) -> Work:
    return train(task, models) if isinstance(task, TrainTask) else generate(task, models)


def train(task: TrainTask, models: Models) -> Work:
    yield Phase(name="loading the models")
    base = models.base(task.base)
    defaults = base.architecture.training_defaults
    settings: dict[str, Any] = {
        "rank": defaults.rank,
        "learning_rate": defaults.learning_rate,
        "resolution": defaults.resolution,
        "batch_size": defaults.batch_size,
        "caption_dropout": defaults.caption_dropout,
        "preservation": defaults.preservation,
    }
    config = train_lora.LoraConfig(**settings | task.config.model_dump(exclude_none=True))
    training = train_lora.train(
        base,
        [Photo(photo.path, photo.caption, photo.class_caption, photo.refused) for photo in task.photos],
        config,
        workdir=task.workdir,
        metadata=task.metadata,
        resume_from=task.resume_from,
        checkpoint_every_s=task.checkpoint_every_s,
        checkpoint_every_steps=task.checkpoint_every_steps,
        fewest_photos=task.fewest_photos,
    )
    with closing(training):
        while True:
            try:
                event = next(training)
            except StopIteration as end:
                trained: train_lora.TrainedLora = end.value
                break
            match event:
                case MlPhase(name=name):
                    yield Phase(name=name, stepwise=name in STEPWISE)
                case train_lora.PhotosSkipped(skipped, summary):
                    photos = [SkippedPhoto(path=photo.path, reason=photo.reason) for photo in skipped]
                    yield PhotosSkipped(photos=photos, summary=summary)
                case train_lora.Step(index, total, loss, learning_rate):
                    metrics: dict[str, float | None] = {
                        "step": index,
                        "steps": total,
                        "loss": loss,
                        "learning_rate": learning_rate,
                    }
                    yield Progress(fraction=index / total, phase="training", metrics=metrics)
                case train_lora.Checkpoint(step, path):
                    yield CheckpointSaved(step=step, path=path)
    resolved = asdict(config) | {"steps": trained.steps}
    return asdict(trained) | {"resolved": resolved, "memory_plan": base.memory_plan}


def generate(task: GenerateTask, models: Models) -> Work:
    yield Phase(name="loading the models")
    upscaler = models.upscaler(task.upscaler)  # first, so that the base's memory plan counts it
    base = models.base(task.base)
    on_gpu = base.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(base.device)
    request = pictures.PictureRequest(
        **task.model_dump(exclude={"kind", "base", "loras", "upscaler", "workdir"}),
        loras=tuple(pictures.LoraUse(lora.path, lora.scale) for lora in task.loras),
    )
    resolved: dict[str, Any] = {}
    drawn: list[pictures.Picture] = []
    # A step is one unit of work and so is an upscaled picture: close enough for a bar that never goes back.
    work = task.num_images
    with closing(cast(Generator[Any, None, None], pictures.generate(base, request))) as drawing:
        for event in drawing:
            match event:
                case pictures.Resolved():
                    resolved = asdict(event)
                case MlPhase(name=name):
                    yield Phase(name=name, stepwise=name in STEPWISE)
                case pictures.Step(index, total):
                    work = total + task.num_images
                    yield Progress(fraction=index / work, phase="drawing", metrics={"step": index, "steps": total})
                case pictures.Picture():
                    drawn.append(event)

    yield Phase(name="upscaling")
    made = []
    for picture in drawn:
        raw, upscaled = (task.workdir / f"{kind}_{picture.index}.npy" for kind in ("raw", "upscaled"))
        pixels = upscaler.upscale(picture.pixels)
        np.save(raw, picture.pixels)
        np.save(upscaled, pixels)
        height, width, _ = pixels.shape
        made.append(
            {
                "index": picture.index,
                "seed": picture.seed,
                "raw": raw,
                "upscaled": upscaled,
                "width": width,
                "height": height,
            }
        )
        yield Progress(fraction=(work - len(drawn) + len(made)) / work, phase="upscaling")
    return {
        "pictures": made,
        "resolved": resolved,
        "peak_gib": torch.cuda.max_memory_allocated(base.device) / 2**30 if on_gpu else None,
        "memory_plan": base.memory_plan,
    }


def failure(error: Exception, phase: str) -> Failed:
    """What the app's user may read of an error.

    A library's own text may quote a prompt or a path: only errors that were worded for this are passed on.
    """
    match error:
        case errors.WorkerError():
            return Failed(code=error.code, message=error.message)
        case BadInput() | ModelUnreadable():  # a base or upscaler that is unreadable came as ModelMissing
            return Failed(code=errors.InvalidInput.code, message=str(error))
        case torch.OutOfMemoryError() | MemoryError():
            message = f"the job does not fit this pod's memory: it ran out while {phase}"
            return Failed(code=errors.OutOfMemory.code, message=message, fatal=True)
        case OSError():
            name = f": {Path(str(error.filename)).name}" if error.filename else ""
            message = f"{type(error).__name__} while {phase}: {error.strerror}{name}"
            return Failed(code=errors.InternalError.code, message=message)
        case _:
            message = f"{type(error).__name__} while {phase}; the pod's log says where"
            return Failed(code=errors.InternalError.code, message=message, fatal=_gpu_is_broken(error))


def _gpu_is_broken(error: Exception) -> bool:
    """After most CUDA errors every later call fails too, and libraries wrap them in types of their own."""
    if isinstance(error, torch.AcceleratorError):
        return True
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False

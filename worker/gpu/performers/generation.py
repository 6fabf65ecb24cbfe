"""Generate and upscale the pictures of a GenerateTask."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from worker.gpu.messages import Event, Phase, Progress, Work
from worker.gpu.models import Models
from worker.gpu.tasks.generation import GenerateTask, GuideFile
from worker.ml.draw import generate as pictures
from worker.ml.draw.denoise import Step
from worker.ml.memory import Plan
from worker.ml.models import Base
from worker.ml.networks.upscaler import Upscaler, Upscaling
from worker.ml.phases import Phase as MlPhase
from worker.ml.photos.whole import read_whole
from worker.ml.protocol import GuideUse


@dataclass
class Drawn:
    """The generated pictures, before they are upscaled."""

    resolved: dict[str, Any] = field(default_factory=dict)
    memory_plan: str = ""
    pictures: list[pictures.Picture] = field(default_factory=list)
    steps: int = 0
    """Over all pictures."""


def generate(task: GenerateTask, models: Models) -> Work:
    """Perform a GenerateTask."""
    yield Phase(name="loading the models")
    upscaler = models.upscaler(task.upscaler, task.upscaler_backend)  # first, so that the base's memory plan counts it
    base = models.base(task.base)
    on_gpu = base.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(base.device)
    guides = [_guide_use(guide, base, models) for guide in task.guides]
    drawn = yield from _draw(base, task, guides)
    upscaled = yield from _upscale(drawn, upscaler, task.workdir)
    return {
        "pictures": upscaled,
        "resolved": drawn.resolved,
        "peak_gib": torch.cuda.max_memory_allocated(base.device) / 2**30 if on_gpu else None,
        "memory_plan": drawn.memory_plan,
    }


def _guide_use(guide: GuideFile, base: Base, models: Models) -> GuideUse:
    """Load a guide and read its pictures. Raises UnusablePhoto, ModelMissing and ModelUnreadable."""
    return GuideUse(
        models.guide(guide.model, base, guide.capability),
        tuple(read_whole(path) for path in guide.pictures),
        guide.scale,
        guide.capability.partition(":")[2] or None,
        guide.start,
        guide.end,
    )


def _draw(base: Base, task: GenerateTask, guides: Sequence[GuideUse]) -> Generator[Event, None, Drawn]:
    not_of_request = {"base", "loras", "guides", "trigger_words", "upscaler", "upscaler_backend", "workdir"}
    request = pictures.PictureRequest(
        **task.model_dump(exclude=not_of_request),
        guides=tuple(guides),
        loras=tuple(pictures.LoraUse(lora.path, lora.scale) for lora in task.loras),
        trigger_words=tuple(task.trigger_words),
    )
    drawn = Drawn()
    with closing(cast(Generator[Any, None, None], pictures.generate(base, request))) as drawing:
        for event in drawing:
            match event:
                case pictures.Resolved():
                    drawn.resolved = asdict(event)
                case Plan():
                    drawn.memory_plan = event.describe(base.computes_in)
                case MlPhase(name=name):
                    yield Phase(name=name, stepwise=name == "drawing")
                case Step(index, total):
                    drawn.steps = total
                    metrics: dict[str, float | None] = {"step": index, "steps": total}
                    yield Progress(fraction=index / (total + task.num_images), phase="drawing", metrics=metrics)
                case pictures.Picture():
                    drawn.pictures.append(event)
    return drawn


def _upscale(drawn: Drawn, upscaler: Upscaler, workdir: Path) -> Generator[Event, None, list[dict[str, Any]]]:
    """Upscale every picture, and write it to `workdir`, raw and upscaled.

    For the progress, a step and an upscaled picture are one unit of work each: exact enough for a progress bar.
    """
    yield Phase(name="upscaling", stepwise=True)
    work = drawn.steps + len(drawn.pictures)
    made: list[dict[str, Any]] = []
    for picture in drawn.pictures:
        pixels = yield from _reported(upscaler.upscale(picture.pixels), drawn.steps + len(made), work)
        raw, upscaled = (workdir / f"{kind}_{picture.index}.npy" for kind in ("raw", "upscaled"))
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
    return made


def _reported(upscaling: Upscaling, done: int, work: int) -> Generator[Event, None, npt.NDArray[np.uint8]]:
    """Yield the progress after each tile of a picture, and return the enlarged picture.

    `done` of `work` units were done before it.
    """
    with closing(upscaling):
        while True:
            try:
                tile = next(upscaling)
            except StopIteration as end:
                pixels: npt.NDArray[np.uint8] = end.value
                return pixels
            yield Progress(fraction=(done + tile.index / tile.total) / work, phase="upscaling")

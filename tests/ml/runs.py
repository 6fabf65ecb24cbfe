"""Draining the generators of `ml`, and the settings that most tests share."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from worker.ml.draw.generate import Picture
from worker.ml.models import Base
from worker.ml.protocol import Condition, Grid, Inputs
from worker.ml.train.train_lora import LoraConfig

Result = TypeVar("Result")
UNLESS_GIVEN = {
    "rank": 16,
    "learning_rate": 1e-4,
    "batch_size": 1,
    "caption_dropout": 0.05,
    "preservation": 0.25,
}


def lora_config(*, resolution: int = 512, **settings: Any) -> LoraConfig:
    """Settings of a training, at one resolution; UNLESS_GIVEN has those that a test does not care about."""
    return LoraConfig(**UNLESS_GIVEN | {"resolutions": (resolution,)} | settings)


def finish(run: Generator[Any, None, Result], events: list[Any] | None = None) -> Result:
    """Run a training or an upscaling to its end, and add what it reports to `events`."""
    events = [] if events is None else events
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            result: Result = end.value
            return result


def pictures(drawing: Iterable[object]) -> list[npt.NDArray[np.uint8]]:
    """The pixels of all pictures of a run."""
    return [event.pixels for event in drawing if isinstance(event, Picture)]


def predict(base: Base, latents: torch.Tensor, time: torch.Tensor, condition: Condition, grid: Grid) -> torch.Tensor:
    """What the denoiser predicts for noised latents (B, …), as in training."""
    sides = ("wanted",) * len(latents)
    inputs = Inputs(latents, time, condition, grid, base.family.training_guidance, sides)
    return base.family.predict(base.parts, inputs)

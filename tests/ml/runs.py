"""Draining the generators of `ml`, and the settings that most tests share."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from worker.ml.draw.generate import Picture
from worker.ml.train.train_lora import LoraConfig

Result = TypeVar("Result")
UNLESS_GIVEN = {
    "rank": 16,
    "learning_rate": 1e-4,
    "resolution": 512,
    "batch_size": 1,
    "caption_dropout": 0.05,
    "preservation": 0.25,
}


def lora_config(**settings: Any) -> LoraConfig:
    """Settings of a training; UNLESS_GIVEN has those that a test does not care about."""
    return LoraConfig(**UNLESS_GIVEN | settings)


def finish(run: Generator[Any, None, Result]) -> Result:
    """Run a training or an upscaling to its end, and return its result."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            result: Result = end.value
            return result


def pictures(drawing: Iterable[object]) -> list[npt.NDArray[np.uint8]]:
    """The pixels of all pictures of a run."""
    return [event.pixels for event in drawing if isinstance(event, Picture)]

"""Draining the generators of `ml`."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.ml.generate import Picture
from worker.ml.train_lora import TrainedLora


def finish(training: Generator[Any, None, TrainedLora]) -> TrainedLora:
    """Run a training to its end."""
    while True:
        try:
            next(training)
        except StopIteration as end:
            result: TrainedLora = end.value
            return result


def pictures(drawing: Iterable[object]) -> list[npt.NDArray[np.uint8]]:
    """The pixels of all pictures of a run."""
    return [event.pixels for event in drawing if isinstance(event, Picture)]

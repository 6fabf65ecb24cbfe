"""Runs the stages of a piece of work: says which one runs and how far all of it is, and measures each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from worker.ml.mesh.chunks import Chunk
from worker.ml.phases import Phase
from worker.ml.stages import StageFigures, measured

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done:
    """So much of the work is done."""

    fraction: float
    """In 0…1, never less than before."""


@dataclass
class Stages:
    """The stages that have run on a device."""

    device: torch.device
    shares: Mapping[str, float]
    """Of the whole, by stage."""
    figures: list[StageFigures] = field(default_factory=list)
    done: float = 0.0

    def run(self, name: str, work: Callable[[], Result]) -> Generator[Phase | Done, None, Result]:
        """Run a stage that cannot be stopped on its way."""

        def at_once() -> Generator[Chunk, None, Result]:
            return work()
            yield  # makes it a generator

        return (yield from self.run_chunks(name, at_once()))

    def run_chunks(self, name: str, work: Generator[Chunk, None, Result]) -> Generator[Phase | Done, None, Result]:
        """Run a stage that can be stopped after each chunk."""
        yield Phase(name)
        with measured(name, self.device) as figures:
            result = yield from self._reported(name, work)
        self.figures.append(figures)
        self.done += self.shares[name]
        yield Done(min(self.done, 1.0))
        return result

    def _reported(self, name: str, work: Generator[Chunk, None, Result]) -> Generator[Done, None, Result]:
        while True:
            try:
                chunk = next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield Done(self.done + self.shares[name] * chunk.done / chunk.total)

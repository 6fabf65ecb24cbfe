"""Reference pictures in the context: tokens that a transformer reads after those of the picture it draws.

Nothing is added to the base: such a family was trained to read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

import torch

from worker.ml.guides.once import OncePerUse
from worker.ml.guides.pictures import check_references, check_unscaled
from worker.ml.models import Base
from worker.ml.protocol import Appended, Grid, GuideUse, Inputs, Parts, Pixels, Sampler, Sampling


@runtime_checkable
class ReadsReferences(Protocol):
    """What a family has whose bases read pictures in their context."""

    def reference_grid(self, parts: Parts, picture: Pixels) -> Grid:
        """Return height and width in tokens of a reference as it is read."""

    def encode_references(self, parts: Parts, pictures: Sequence[Pixels]) -> Appended:
        """Return the tokens (1, M, C) of all references in their order, on the autoencoder's device."""

    def reference_bytes(self, parts: Parts, grids: Sequence[Grid]) -> tuple[int, int]:
        """Estimate what references on these grids need on the device: to be encoded, and to be read by one row."""


class InContext:
    """A `Guide` by reference pictures that the base itself reads; see there for each member."""

    anonymous_bytes = 0

    def __init__(self) -> None:
        self._encoded = OncePerUse[Appended]()

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        family = cast(ReadsReferences, base.family)
        grids = [family.reference_grid(base.parts, picture) for picture in use.pictures]
        encoding, reading = family.reference_bytes(base.parts, grids)
        return max(base.part_bytes(base.family.autoencoder) + encoding, reading)

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        try:
            yield
        finally:
            self._encoded.forget()

    def sampler(self, sampler: Sampler, sampling: Sampling) -> Sampler:
        return sampler

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> Appended:
        check_references(use.pictures)
        check_unscaled(use.scale, f"{base.family.name} bases")
        return self._encoded.get(use, lambda: self._encode(base, use))

    def change(self, state: Appended, inputs: Inputs, done: float) -> Inputs:
        tokens = state.tokens.to(inputs.latents).expand(len(inputs.latents), -1, -1)
        return replace(inputs, appended=Appended(tokens, state.ids))

    def _encode(self, base: Base, use: GuideUse) -> Appended:
        base.place(base.family.autoencoder)
        return cast(ReadsReferences, base.family).encode_references(base.parts, use.pictures)

"""Classifier-free guidance (arXiv 2207.12598): away from the prediction for the negative prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from worker.ml.protocol import Parts, Side


class ClassifierFree(Protocol):
    """Guidance as the first diffusers pipelines have it: both predictions in one call, so that a step is one pass."""

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool: ...

    def evaluations(self, parts: Parts, guidance: float, timestep: float) -> Sequence[tuple[Side, ...]]:
        return [("against", "wanted")] if self.uses_negative_prompt(parts, guidance) else [("wanted",)]

    def combine(
        self, wanted: torch.Tensor, against: torch.Tensor | None, guidance: float, timestep: float
    ) -> torch.Tensor:
        return wanted if against is None else against + guidance * (wanted - against)

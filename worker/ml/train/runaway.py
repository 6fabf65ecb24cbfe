"""Notice a training that ran away: its LoRA is worse than none on the very photos that it learns.

A learning rate that is ten times too high gives a finite loss, which settles at a level far above that of the base. The
loss of a step says little, as it depends mostly on the time that was drawn; so the same photos are measured at fixed
noise, with and without the LoRA.
"""

from __future__ import annotations

import torch

from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.train.batches import TrainingData, select_samples
from worker.ml.train.config import LoraConfig
from worker.ml.train.loss import batches_at_fixed_noise, lora_disabled, sample_losses

PHOTOS, DRAWS = 2, 4
MEASURED_AT = (0.1, 0.25, 0.5, 1.0)
"""Shares of the steps, so that a hopeless training ends early. All of it costs about as much as 15 steps."""
LIMIT = 1.25
"""Of the loss to the base's. On a small trained base a training that learns ends at 0.65 to 0.97 of it, and is never
above 1; at learning rates of 0.1 and 1 it ends at 1.54 and 1.58."""


class Watch:
    """Compares a training with its base at a few of its steps."""

    def __init__(self, base: Base, data: TrainingData, config: LoraConfig) -> None:
        """Measure the base."""
        assert config.steps is not None  # filled in by `train`
        self._base, self._data, self._learning_rate = base, data, config.learning_rate
        self._steps = {max(1, round(share * config.steps)) for share in MEASURED_AT}
        with lora_disabled(base):
            self._without = self._loss()

    def check(self, step: int) -> None:
        """Measure the LoRA, if it is one of those steps, counted from 1. Raises BadInput for one that ran away."""
        if step not in self._steps:
            return
        loss = self._loss()
        if loss > LIMIT * self._without:
            raise BadInput(
                f"training ran away: after {step} steps its loss on its own photos is {loss:.3g}, and "
                f"{self._without:.3g} without the LoRA; use a lower learning_rate than {self._learning_rate:g}"
            )

    @torch.no_grad()
    def _loss(self) -> float:
        losses = [
            sample_losses(self._base, select_samples(batch, torch.arange(DRAWS) == draw))
            for batch in batches_at_fixed_noise(
                self._base, self._data.samples[:PHOTOS], self._data.texts, DRAWS, "watch"
            )
            for draw in range(DRAWS)  # one by one: they must not need more memory than a step
        ]
        return float(torch.cat(losses).mean())

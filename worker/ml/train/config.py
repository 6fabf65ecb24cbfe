"""The settings of one training, and the check that they are possible."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.ml.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Settings of one training. The GPU process fills them in from its task; where the task leaves one open, from the
    family's `training_defaults`.
    """

    steps: int | None = None  # None: the family's number for this many photos
    rank: int
    learning_rate: float
    resolutions: tuple[int, ...]  # from the lowest up; they are trained in turn
    batch_size: int
    seed: int = 0
    caption_dropout: float
    preservation: float  # the share of samples, among those with a class caption

    def check(self) -> None:
        """Raise BadInput, naming the setting and its value, for one that is impossible."""
        for name in ("steps", "rank", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} must be at least 1, not {value}")
        if not self.resolutions or min(self.resolutions) < 1 or sorted(set(self.resolutions)) != [*self.resolutions]:
            raise BadInput(f"resolutions must be at least 1 and in ascending order, not {self.resolutions}")
        if not 0 < self.learning_rate < math.inf:
            raise BadInput(f"learning_rate must be a finite number above 0, not {self.learning_rate}")
        for name in ("caption_dropout", "preservation"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise BadInput(f"{name} must be between 0 and 1, not {value}")

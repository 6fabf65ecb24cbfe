"""Whether a base's scheduler can draw in so many steps."""

from __future__ import annotations

import torch

from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.protocol import Grid

MOST_TRIED = 50
"""No scheduler of diffusers needs more than 4."""


def check_steps(base: Base, grid: Grid, steps: int) -> None:
    """Raise BadInput, with the fewest that are possible, if the base's scheduler cannot draw in so many steps."""
    if _possible(base, grid, steps):
        return
    scheduler = type(base.parts.scheduler).__name__
    fewest = next((more for more in range(steps + 1, steps + MOST_TRIED) if _possible(base, grid, more)), None)
    if fewest is None:
        raise BadInput(f"steps: {scheduler}, the scheduler of this base, cannot draw in {steps} steps: use fewer")
    raise BadInput(f"steps: {scheduler}, the scheduler of this base, needs at least {fewest}, not {steps}")


def _possible(base: Base, grid: Grid, steps: int) -> bool:
    """Return True if the scheduler plans so many steps, at finite times. Schedulers raise anything if they cannot."""
    try:
        sampler = base.family.sampler(base.parts, grid, steps, torch.device("cpu"), torch.Generator("cpu"))
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError):
        return False
    return len(sampler.timesteps) > 0 and bool(sampler.timesteps.isfinite().all())

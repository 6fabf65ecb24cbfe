"""Which sampler draws, and whether it can in so many steps."""

from __future__ import annotations

from dataclasses import replace

import torch

from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.protocol import Sampling

MOST_TRIED = 50
"""No scheduler of diffusers needs more than 4."""


def sampler_named(base: Base, name: str | None) -> str | None:
    """Return a sampler's name as families have it, also for a name as people write it: "DPM++ 2M Karras".

    Raises BadInput for one that the family of the base does not have.
    """
    if name is None:
        return None
    own = name.strip().lower().replace("++", "pp").replace(" ", "_")
    if own not in base.family.samplers:
        raise BadInput(f"sampler: {name} is not one of {base.family.name}: {', '.join(base.family.samplers)}")
    return own


def check_steps(base: Base, sampling: Sampling) -> None:
    """Raise BadInput, with the fewest that are possible, if the sampler cannot draw in so many steps."""
    if _possible(base, sampling):
        return
    steps = sampling.steps
    scheduler = f"the sampler {sampling.sampler}"
    if sampling.sampler is None:
        scheduler = f"{type(base.parts.scheduler).__name__}, the scheduler of this base,"
    more = (replace(sampling, steps=count) for count in range(steps + 1, steps + MOST_TRIED))
    fewest = next((possible.steps for possible in more if _possible(base, possible)), None)
    if fewest is None:
        raise BadInput(f"steps: {scheduler} cannot draw in {steps} steps: use fewer")
    raise BadInput(f"steps: {scheduler} needs at least {fewest}, not {steps}")


def _possible(base: Base, sampling: Sampling) -> bool:
    """Return True if the scheduler plans so many steps, at finite times. Schedulers raise anything if they cannot."""
    try:
        sampler = base.family.sampler(base.parts, sampling, torch.device("cpu"), torch.Generator("cpu"))
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError):
        return False
    return len(sampler.timesteps) > 0 and bool(sampler.timesteps.isfinite().all())

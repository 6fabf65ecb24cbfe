"""The steps of a drawing: which sampler takes how many, and those that a guide takes part in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.protocol import GuideUse, Sampler, Sampling

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


def new_sampler(
    base: Base, sampling: Sampling, guides: Sequence[GuideUse], device: torch.device, generator: torch.Generator
) -> Sampler:
    """Return the sampler of one picture, as these guides change it. Raises BadInput, and what schedulers raise."""
    sampler = base.family.sampler(base.parts, sampling, device, generator)
    for use in guides:
        sampler = use.guide.sampler(sampler, sampling)
    return sampler


def planned_steps(base: Base, sampling: Sampling, guides: Sequence[GuideUse]) -> int:
    """Return how many steps the sampler takes for so many: some take more.

    Raises BadInput, with the fewest that are possible, if it cannot draw in so many.
    """
    if planned := _planned(base, sampling, guides):
        return planned
    steps = sampling.steps
    scheduler = f"the sampler {sampling.sampler}"
    if sampling.sampler is None:
        scheduler = f"{type(base.parts.scheduler).__name__}, the scheduler of this base,"
    more = (replace(sampling, steps=count) for count in range(steps + 1, steps + MOST_TRIED))
    fewest = next((possible.steps for possible in more if _planned(base, possible, guides)), None)
    if fewest is None:
        raise BadInput(f"steps: {scheduler} cannot draw in {steps} steps: use fewer")
    raise BadInput(f"steps: {scheduler} needs at least {fewest}, not {steps}")


def takes_part(use: GuideUse, step: int, total: int) -> bool:
    """Return True if the guide is used in this step of so many, from 0: as diffusers' pipelines keep a ControlNet.

    A step takes part if all of it is inside the guide's window.
    """
    return not (step / total < use.start or (step + 1) / total > use.end)


def check_window(use: GuideUse, total: int) -> None:
    """Raise BadInput for a window that is not one, and for one that none of so many steps is inside."""
    window = f"the window of a guide is from {use.start:g} to {use.end:g}"
    if not 0 <= use.start < use.end <= 1:
        raise BadInput(f"{window}: its start must be at least 0 and below its end, and its end at most 1")
    if not any(takes_part(use, step, total) for step in range(total)):
        raise BadInput(f"{window}, and none of the {total} steps is inside: use a wider one, or more steps")


def _planned(base: Base, sampling: Sampling, guides: Sequence[GuideUse]) -> int:
    """Return how many steps the scheduler plans, or 0 if it cannot: schedulers then raise anything, or plan NaN."""
    try:
        sampler = new_sampler(base, sampling, guides, torch.device("cpu"), torch.Generator("cpu"))
    except BadInput:
        raise
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError):
        return 0
    return len(sampler.timesteps) if sampler.timesteps.isfinite().all() else 0

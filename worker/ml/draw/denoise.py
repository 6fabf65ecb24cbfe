"""The denoising loop of one picture, written out, so that to stop is to not ask for the next step.

Noise is drawn on a CPU generator: a seed gives the same picture on every machine, and the same as plain diffusers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from worker.ml.draw.finite import culprit
from worker.ml.draw.steps import new_sampler, takes_part
from worker.ml.models import Base
from worker.ml.protocol import Condition, Grid, Guide, GuideUse, Inputs, Sampler, Sampling, Side


@dataclass(frozen=True)
class Step:
    index: int  # steps done, from 1
    total: int  # over all pictures


@dataclass(frozen=True)
class Scene:
    """What all pictures of a request share."""

    base: Base
    text: Mapping[Side, Condition]  # a row each
    sampling: Sampling
    guidance: float
    guides: Sequence[GuideUse]
    states: Sequence[Sequence[Any]]  # for each picture, those of the guides
    loras: Sequence[tuple[str, float]] = ()  # the attached files, each with its scale


def prepare(base: Base, guides: Sequence[GuideUse], grid: Grid, seed: int) -> list[Any]:
    """Return the states of the guides for the picture of this seed.

    Guides draw from a generator of their own: a seed means the same noise with and without them.
    """
    return [use.guide.prepare(base, use, grid, torch.Generator("cpu").manual_seed(seed)) for use in guides]


def denoise(scene: Scene, index: int, seed: int) -> Generator[Step, None, torch.Tensor]:
    """Draw the picture of this index and return its latents (1, …).

    Raises what `culprit` returns where the denoiser's numbers are not finite.
    """
    base, family, parts = scene.base, scene.base.family, scene.base.parts
    noise = torch.Generator("cpu").manual_seed(seed)
    sampler = new_sampler(base, scene.sampling, scene.guides, base.device, noise)
    # float16 keeps three digits: over many steps their loss shows, unless the latents are kept in float32.
    precision = torch.float32 if base.dtype == torch.float16 else base.dtype
    latents = family.first_noise(parts, sampler, scene.sampling.grid, noise, precision).to(base.device)
    times = sampler.timesteps.tolist()
    for step, time in enumerate(times):
        timestep = sampler.timesteps[step]
        states = zip(scene.guides, scene.states[index], strict=True)
        guides = [(use.guide, state) for use, state in states if takes_part(use, step, len(times))]
        moment = _Moment(time, step / len(times), guides)
        predict = partial(_predict, scene, sampler, timestep, moment)
        latents = sampler.step(predict(latents), timestep, latents)
        if base.device.type == "cuda":
            torch.cuda.synchronize(base.device)  # so that a step is reported, and can be stopped, when it is done
        if not latents.isfinite().all():
            raise culprit(base, scene.loras, f"at step {step + 1} of {len(times)}", latents, predict)
        yield Step(index * len(times) + step + 1, len(scene.states) * len(times))
    return latents


@dataclass(frozen=True)
class _Moment:
    time: float  # in the scheduler's unit
    done: float  # share of the steps
    guides: Sequence[tuple[Guide, Any]]  # that take part in this step, each with its state


def _predict(
    scene: Scene, sampler: Sampler, timestep: torch.Tensor, moment: _Moment, latents: torch.Tensor
) -> torch.Tensor:
    """Return the guided prediction for latents (1, …)."""
    family, parts = scene.base.family, scene.base.parts
    scaled, time = family.denoiser_input(sampler, latents, timestep)
    predicted: dict[Side, torch.Tensor] = {}
    for sides in family.evaluations(parts, scene.guidance, moment.time):
        first, *others = (scene.text[side] for side in sides)
        inputs = Inputs(
            latents=torch.cat([scaled] * len(sides)).to(scene.base.dtype),
            time=time.expand(len(sides)),
            condition=first.join(others) if others else first,
            grid=scene.sampling.grid,
            guidance=scene.guidance,
            sides=sides,
        )
        for guide, state in moment.guides:
            inputs = guide.change(state, inputs, moment.done)
        predicted.update(zip(sides, family.predict(parts, inputs).to(latents.dtype).chunk(len(sides)), strict=True))
    return family.combine(predicted["wanted"], predicted.get("against"), scene.guidance, moment.time)

"""Samplers by the names that people know, as diffusers' schedulers with the settings that stand behind the name.

Names follow ComfyUI's, with what it calls the scheduler after them; diffusers' documentation of schedulers has the
table that maps those of the AUTOMATIC1111 web UI.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)


@dataclass(frozen=True)
class NamedSampler:
    """A scheduler, and what differs from the configuration of the base's own."""

    scheduler: type
    settings: Mapping[str, Any] = field(default_factory=dict)


_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

OF_DIFFUSION: Mapping[str, NamedSampler] = {
    "euler": NamedSampler(EulerDiscreteScheduler),
    "euler_karras": NamedSampler(EulerDiscreteScheduler, _KARRAS),
    "euler_a": NamedSampler(EulerAncestralDiscreteScheduler),
    "heun": NamedSampler(HeunDiscreteScheduler),
    "dpmpp_2m": NamedSampler(DPMSolverMultistepScheduler),
    "dpmpp_2m_karras": NamedSampler(DPMSolverMultistepScheduler, _KARRAS),
    "dpmpp_2m_sde": NamedSampler(DPMSolverMultistepScheduler, _SDE),
    "dpmpp_2m_sde_karras": NamedSampler(DPMSolverMultistepScheduler, _SDE | _KARRAS),
    "ddim": NamedSampler(DDIMScheduler),
    "uni_pc": NamedSampler(UniPCMultistepScheduler),
}
OF_FLOW_MATCHING: Mapping[str, NamedSampler] = {
    "euler": NamedSampler(FlowMatchEulerDiscreteScheduler),
    "heun": NamedSampler(FlowMatchHeunDiscreteScheduler),
    "dpmpp_2m": NamedSampler(DPMSolverMultistepScheduler, _FLOW),
    "uni_pc": NamedSampler(UniPCMultistepScheduler, _FLOW),
}


def new_scheduler(own: Any, name: str | None, named: Mapping[str, NamedSampler]) -> Any:
    """Return a new scheduler of this name, or of the kind of the base's own, with the own's configuration."""
    if name is None:
        return type(own).from_config(own.config)
    sampler = named[name]
    return sampler.scheduler.from_config(own.config, **sampler.settings)  # type: ignore[attr-defined]


def step_arguments(scheduler: Any, generator: torch.Generator) -> dict[str, Any]:
    """Return the extra arguments of a scheduler's `step`: stochastic ones draw from the generator."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}

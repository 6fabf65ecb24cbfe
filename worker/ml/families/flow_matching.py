"""Training by flow matching (arXiv 2210.02747) on packed latents: x_t = (1 - t)·x0 + t·n, and the target is n - x0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from worker.ml.errors import ModelUnreadable
from worker.ml.protocol import Parts


def check_scheduler(folder: Path, scheduler: Any) -> None:
    """Raise ModelUnreadable, naming the folder, for a scheduler that a family does not know how to shift."""
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        kind = type(scheduler).__name__
        raise ModelUnreadable(
            f"{folder} has the scheduler {kind}, which is unsupported; supported: FlowMatchEulerDiscreteScheduler"
        )


class FlowMatching:
    """What its families have in common; see `Family` for each member. Latents are tokens (B, N, C), time is in 0..1."""

    def even_times(self, parts: Parts, count: int) -> torch.Tensor:
        """Return times (count,), evenly spaced over 0..1."""
        return (torch.arange(count) + 0.5) / count

    def noised_input_and_target(
        self, parts: Parts, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the transformer's input and target for latents and noise (B, N, C) at time (B,)."""
        t = time[:, None, None]
        return (1 - t) * latents + t * noise, noise - latents

    def loss_weights(self, parts: Parts, time: torch.Tensor) -> torch.Tensor:
        """Return ones (B,): the density of times is the only weighting."""
        return torch.ones_like(time)

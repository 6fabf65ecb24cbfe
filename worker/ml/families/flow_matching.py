"""Training by flow matching (arXiv 2210.02747) on packed latents: x_t = (1 - t)·x0 + t·n, and the target is n - x0."""

from __future__ import annotations

import torch

from worker.ml.protocol import Parts


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

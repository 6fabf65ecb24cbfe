"""Draw with the base during its training: Euler steps and true guidance, without a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from tools.small_base.latents import unpacked
from tools.small_base.model import Base, Grid, Reader

STEPS, GUIDANCE = 20, 3.0


@torch.no_grad()
def sampled(
    base: Base, reader: Reader, prompts: Sequence[str], seed: int, grid: Grid = (9, 7), guidance: float = GUIDANCE
) -> torch.Tensor:
    """Return latents (B, C, H, W): one picture for each prompt, each from its own noise."""
    generator = torch.Generator().manual_seed(seed)
    channels = base.transformer.config.in_channels
    latents = torch.randn(len(prompts), grid[0] * grid[1], channels, generator=generator)
    text, pooled = base.read(reader([*prompts, *[""] * len(prompts)]))
    times = torch.linspace(1, 0, STEPS + 1)
    for now, then in pairwise(times):
        both = base.velocity(latents.repeat(2, 1, 1), now.expand(2 * len(prompts)), text, pooled, grid)
        positive, empty = both.chunk(2)
        latents = latents + (then - now) * (empty + guidance * (positive - empty))
    return unpacked(latents, grid)

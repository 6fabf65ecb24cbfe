"""Three planes as tokens: learned ones to begin with, and the enlarged planes that the field is read from."""

from __future__ import annotations

import torch
from torch import nn

from worker.ml.networks.triposr.config import PostProcessorConfig, TriplaneConfig

PLANES = ((0, 1), (0, 2), (1, 2))
"""The two axes of each plane, of x, y and z. The first runs along a plane's width, the second along its height."""


class TriplaneTokenizer(nn.Module):
    """The tokens that the transformer begins with, the same for every picture."""

    def __init__(self, config: TriplaneConfig) -> None:
        super().__init__()
        self.side = config.plane_size
        self.embeddings = nn.Parameter(torch.zeros(len(PLANES), config.num_channels, self.side, self.side))

    def forward(self, batch: int) -> torch.Tensor:
        """Return (batch, C, planes·side·side): plane by plane, row by row."""
        return self.embeddings.transpose(0, 1).flatten(1)[None].expand(batch, -1, -1)

    def planes(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, C, planes·side·side) as planes (B, planes, C, side, side)."""
        return tokens.reshape(*tokens.shape[:2], len(PLANES), self.side, self.side).transpose(1, 2)


class TriplaneUpsampler(nn.Module):
    """Doubles the side of the planes: (B, planes, C, side, side) to (B, planes, out_channels, 2·side, 2·side)."""

    def __init__(self, config: PostProcessorConfig) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(config.in_channels, config.out_channels, kernel_size=2, stride=2)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        enlarged: torch.Tensor = self.upsample(planes.flatten(0, 1)).unflatten(0, planes.shape[:2])
        return enlarged

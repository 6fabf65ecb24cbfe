"""Density and colour at any point: features of three planes, decoded by a small network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn import functional

from worker.ml.networks.triposr.config import DecoderConfig, RendererConfig
from worker.ml.networks.triposr.triplane import PLANES

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Decoder(nn.Module):
    """Features (…, in_channels) to raw density and raw colour (…, 4)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.neurons = config.n_neurons
        widths = [config.in_channels, *[config.n_neurons] * config.n_hidden_layers]
        hidden = [
            (nn.Linear(width, config.n_neurons, bias=config.bias), _ACTIVATIONS[config.activation]())
            for width in widths[:-1]
        ]
        self.layers = nn.Sequential(*chain(*hidden), nn.Linear(config.n_neurons, 4, bias=config.bias))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        raw: torch.Tensor = self.layers(features)
        return raw


@dataclass(frozen=True)
class Samples:
    """What a field is at N points."""

    raw_density: torch.Tensor
    """(N,), as decoded."""
    density: torch.Tensor
    """(N,), ≥ 0, of light absorbed a unit of length."""
    raw_colours: torch.Tensor
    """(N, 3), as decoded."""
    colours: torch.Tensor
    """(N, 3), sRGB in 0…1."""


@dataclass(frozen=True)
class Field:
    """An object: planes (planes, C, S, S) of scene codes, and how they are read.

    It fills the cube of ±radius. Between the middles of the outermost cells and the cube's faces, planes fade to zero.
    """

    planes: torch.Tensor
    decoder: Decoder
    config: RendererConfig

    @property
    def radius(self) -> float:
        return self.config.radius

    @torch.no_grad()
    def sample(self, points: torch.Tensor) -> Samples:
        """Return the field at points (N, 3) in world coordinates."""
        places = torch.stack([points[:, axes] for axes in PLANES]) / self.radius
        features = sampled_planes(self.planes, places[:, None])[:, :, 0]  # (planes, C, N)
        raw = self.decoder(features.permute(2, 0, 1).flatten(1))
        return Samples(raw[:, 0], self.density(raw[:, 0]), raw[:, 1:], raw[:, 1:].sigmoid())

    def density(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the density that a decoded number means."""
        return (raw + self.config.density_bias).exp()


def sampled_planes(planes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Read planes (P, C, S, S) at places (P, H, W, 2) in -1…1, width first: (P, C, H, W), zero outside."""
    return functional.grid_sample(planes, places, mode="bilinear", padding_mode="zeros", align_corners=False)

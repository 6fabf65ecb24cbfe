"""Densities on a regular grid, in chunks that fit the memory.

Points of a grid share their coordinates, so the planes and the decoder's first layer, which is linear in the features
of each plane, are evaluated once for the N² points of each plane instead of the N³ of the grid, and added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from worker.ml.networks.triposr.field import Field, sampled_planes


@dataclass(frozen=True)
class Rows:
    """Densities of some rows of the grid, each along z."""

    begin: int
    """The first one's place in x·N + y order."""
    densities: torch.Tensor
    """(rows, N), float32."""


def coordinates(field: Field, resolution: int) -> torch.Tensor:
    """Return the grid's coordinates along any axis (N,): both faces of the cube are part of it."""
    return torch.linspace(-field.radius, field.radius, resolution, device=field.planes.device)


def bytes_per_point(field: Field) -> int:
    """Return the device memory that a point of a chunk takes: hidden layers before and after an activation."""
    return 4 * field.decoder.neurons * field.planes.element_size()


@torch.no_grad()
def densities(field: Field, resolution: int, rows_per_chunk: int) -> Iterator[Rows]:
    """Yield the densities of all resolution² rows in order."""
    xy, xz, yz = _first_layer(field, resolution)
    rest = field.decoder.layers[1:]
    for begin in range(0, resolution**2, rows_per_chunk):
        rows = torch.arange(begin, min(begin + rows_per_chunk, resolution**2), device=xy.device)
        x, y = rows // resolution, rows % resolution
        hidden = xz[x]
        hidden += yz[y]
        hidden += xy[x, y][:, None]
        yield Rows(begin, field.density(rest(hidden)[..., 0]))


def _first_layer(field: Field, resolution: int) -> list[torch.Tensor]:
    """Return what each plane adds to the decoder's first layer, (N, N, neurons): its first axis first."""
    first = field.decoder.layers[0]
    assert isinstance(first, torch.nn.Linear)
    line = coordinates(field, resolution) / field.radius
    # (N, N, 2), indexed by the plane's first axis and its second, which are width and height.
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)
    features = sampled_planes(field.planes, places.expand(len(field.planes), -1, -1, -1)).permute(0, 2, 3, 1)
    weights = first.weight.chunk(len(field.planes), dim=1)
    biases = [first.bias, None, None]
    return [functional.linear(*each) for each in zip(features, weights, biases, strict=True)]

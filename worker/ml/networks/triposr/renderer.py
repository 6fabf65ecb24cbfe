"""Pictures of a field by volume rendering, as the official program draws them: the reference for a mesh's looks."""

from __future__ import annotations

import torch

from worker.ml.networks.triposr.field import Field

_SHRUNK = 0.999
"""Rays are sampled inside the cube by 0.1 %."""
_PARALLEL = 1e-6
"""Directions below it count as this, so that nothing is divided by zero."""
_SHORTEST = 0.01
"""Rays that cross no more than this of the cube see the background."""
_CHUNK = 2**13
"""Rays at a time."""


@torch.no_grad()
def render(field: Field, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Return the colours (…, 3) that rays from `origins` (…, 3) see on white, sRGB in 0…1."""
    directions = directions.to(field.planes)
    origins = origins.to(field.planes).expand_as(directions)
    rays = [torch.split(each.reshape(-1, 3), _CHUNK) for each in (origins, directions)]
    return torch.cat([_colours(field, *chunk) for chunk in zip(*rays, strict=True)]).reshape(directions.shape)


def _colours(field: Field, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    colours = torch.ones_like(origins)
    near, far = _crossed(origins, directions, field.radius * _SHRUNK)
    crosses = far - near > _SHORTEST
    origins, directions, near, far = (each[crosses] for each in (origins, directions, near, far))
    count = field.config.num_samples_per_ray
    edges = torch.linspace(0, 1, count + 1, device=origins.device)
    middles = (edges[:-1] + edges[1:]) / 2
    distances = near[:, None] * (1 - middles) + far[:, None] * middles
    points = origins[:, None] + distances[..., None] * directions[:, None]
    samples = field.sample(points.reshape(-1, 3))
    # The step is a share of the way through the cube, not a length.
    opacities = 1 - (-samples.density.reshape(-1, count) / count).exp()
    passed = torch.cumprod(1 - opacities[:, :-1] + 1e-10, dim=-1)
    weights = opacities * torch.cat([torch.ones_like(passed[:, :1]), passed], dim=-1)
    seen = (weights[..., None] * samples.colours.reshape(-1, count, 3)).sum(1)
    colours[crosses] = seen + (1 - weights.sum(-1, keepdim=True))
    return colours


def _crossed(origins: torch.Tensor, directions: torch.Tensor, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distances at which rays (R, 3) enter the cube of ±radius and leave it, (R,) each."""
    divisors = torch.where(directions.abs() < _PARALLEL, _PARALLEL, directions)
    one, other = (radius - origins) / divisors, (-radius - origins) / divisors
    near = torch.minimum(one, other).amax(-1).clamp_min(0)
    return near, torch.maximum(one, other).amin(-1)

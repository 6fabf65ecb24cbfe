"""Rays of cameras around an object, as the official program places them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Orbit:
    """Cameras in a circle that look at the origin; the first one sees the object as the picture shows it."""

    n_views: int
    elevation_deg: float
    camera_distance: float
    """In world units, from the origin."""
    fovy_deg: float
    """The angle of view from the picture's bottom to its top."""
    height: int
    width: int


def rays(orbit: Orbit) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each view's rays begin (V, 3), and their unit directions (V, H, W, 3)."""
    azimuths = torch.arange(orbit.n_views) * (2 * math.pi / orbit.n_views)
    elevation = torch.tensor(math.radians(orbit.elevation_deg)).expand(orbit.n_views)
    outwards = torch.stack(
        [elevation.cos() * azimuths.cos(), elevation.cos() * azimuths.sin(), elevation.sin()], dim=-1
    )
    forwards = -outwards
    right = torch.linalg.cross(forwards, torch.tensor([0.0, 0.0, 1.0]).expand_as(forwards), dim=-1)
    right = right / right.norm(dim=-1, keepdim=True)
    up = torch.linalg.cross(right, forwards, dim=-1)

    # A pixel's middle, in units of the focal length.
    focal = orbit.height / 2 / math.tan(math.radians(orbit.fovy_deg) / 2)
    across = ((torch.arange(orbit.width) + 0.5 - orbit.width / 2) / focal)[None, None, :, None]
    down = ((torch.arange(orbit.height) + 0.5 - orbit.height / 2) / focal)[None, :, None, None]
    directions = across * right[:, None, None] - down * up[:, None, None] + forwards[:, None, None]
    return outwards * orbit.camera_distance, directions / directions.norm(dim=-1, keepdim=True)

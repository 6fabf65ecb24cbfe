"""Colours of points, asked of the field."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from worker.ml.mesh.chunks import Chunk, points_at_once
from worker.ml.mesh.shape import Colours
from worker.ml.mesh.surface import Vertices
from worker.ml.networks.triposr.field import Field


def colours_at(field: Field, points: Vertices) -> Generator[Chunk, None, Colours]:
    """Return the colours (N, 3) at points in the field's coordinates."""
    device = field.planes.device
    size = points_at_once(device, _bytes_per_point(field))
    colours = np.empty((len(points), 3), np.float32)
    for begin in range(0, len(points), size):
        chunk = torch.from_numpy(points[begin : begin + size]).to(device)
        colours[begin : begin + size] = field.sample(chunk).colours.cpu().numpy()
        yield Chunk(min(begin + size, len(points)), len(points))
    return colours


def _bytes_per_point(field: Field) -> int:
    """Return the memory that a point takes: features of all planes twice, and a layer before and after activation."""
    features = field.planes.shape[0] * field.planes.shape[1]
    return (2 * features + 2 * field.decoder.neurons) * field.planes.element_size()

"""Densities of a field on a grid, chunk by chunk."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import numpy.typing as npt

from worker.ml.errors import NotFinite
from worker.ml.mesh.chunks import Chunk, points_at_once
from worker.ml.networks.triposr import grid
from worker.ml.networks.triposr.field import Field

Volume = npt.NDArray[np.float32]
"""(N, N, N) densities, by x, y and z."""


def densities(field: Field, resolution: int) -> Generator[Chunk, None, Volume]:
    """Return the densities of the whole cube, in the host's memory. Raises NotFinite."""
    rows = max(1, points_at_once(field.planes.device, grid.bytes_per_point(field)) // resolution)
    volume = np.empty((resolution**2, resolution), np.float32)
    for chunk in grid.densities(field, resolution, rows):
        end = chunk.begin + len(chunk.densities)
        volume[chunk.begin : end] = chunk.densities.cpu().numpy()
        if not np.isfinite(volume[chunk.begin : end]).all():
            raise NotFinite("the mesh model gives densities that are not finite: install its official weights again")
        yield Chunk(end, resolution**2)
    return volume.reshape(resolution, resolution, resolution)

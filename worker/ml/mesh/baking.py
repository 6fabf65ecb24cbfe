"""A texture for an unwrapped mesh: for each texel, the field's colour at the place that it covers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.ml.extra_packages import imported
from worker.ml.mesh.atlas import Atlas
from worker.ml.mesh.chunks import Chunk
from worker.ml.mesh.colours import colours_at
from worker.ml.mesh.surface import Vertices
from worker.ml.networks.triposr.field import Field
from worker.ml.protocol import Pixels

_TRIANGLES = 4096
"""At a time, so that the texels of their boxes fit the memory."""
_INSIDE = -1e-4
"""In barycentric coordinates: texels on an edge belong to a triangle, whatever is rounded."""


@dataclass(frozen=True)
class Texels:
    """Texels that a triangle covers, and where in space they are."""

    places: npt.NDArray[np.int64]
    """(N, 2): row and column."""
    points: Vertices
    """(N, 3), in the field's coordinates."""


def baked(field: Field, atlas: Atlas, vertices: Vertices, side_px: int) -> Generator[Chunk, None, Pixels]:
    """Return a texture (S, S, 3) for vertices (V', 3) of an atlas, in the field's coordinates.

    Texels that no triangle covers have the colour of the nearest one that is covered, so that filters find no seams.
    """
    texels = covered(atlas, vertices, side_px)
    colours = yield from colours_at(field, texels.points)
    rows, columns = texels.places.T
    texture = np.zeros((side_px, side_px, 3), np.uint8)
    texture[rows, columns] = (colours * 255).round().astype(np.uint8)
    empty = np.ones((side_px, side_px), bool)
    empty[rows, columns] = False
    to_nearest = imported("scipy.ndimage").distance_transform_edt
    filled: Pixels = texture[tuple(to_nearest(empty, return_distances=False, return_indices=True))]
    return filled


def covered(atlas: Atlas, vertices: Vertices, side_px: int) -> Texels:
    """Return the texels of a texture of so many pixels a side whose middles are in a triangle."""
    parts = list(_covered(atlas.uv[atlas.faces] * side_px, vertices[atlas.faces]))
    return Texels(np.concatenate([part.places for part in parts]), np.concatenate([part.points for part in parts]))


def _covered(corners: npt.NDArray[np.float32], positions: Vertices) -> Iterator[Texels]:
    """Yield the texels of triangles with corners (F, 3, 2) in texels and (F, 3, 3) in space, some at a time."""
    for begin in range(0, len(corners), _TRIANGLES):
        some = slice(begin, begin + _TRIANGLES)
        triangle, places = _boxes(corners[some])
        weights = _barycentric(corners[some][triangle], places + 0.5)
        inside = (weights >= _INSIDE).all(axis=1)
        points = np.einsum("nc,ncd->nd", weights[inside], positions[some][triangle[inside]])
        yield Texels(places[inside][:, ::-1], points.astype(np.float32))


def _boxes(corners: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return each texel in the box around each triangle: the triangle's place (N,), and column and row (N, 2)."""
    low = np.floor(corners.min(axis=1)).astype(np.int64)
    widths, heights = (np.ceil(corners.max(axis=1)).astype(np.int64) - low).clip(min=1).T
    counts = widths * heights
    triangle = np.repeat(np.arange(len(corners)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return triangle, low[triangle] + np.stack([within % widths[triangle], within // widths[triangle]], axis=1)


def _barycentric(corners: npt.NDArray[np.float32], points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the weights (N, 3) of triangles' corners (N, 3, 2) at points (N, 2): outside, some are negative."""
    origin = corners[:, 0].astype(np.float64)
    one, other, point = corners[:, 1] - origin, corners[:, 2] - origin, points - origin
    area = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    area = np.where(area == 0, np.inf, area)  # a triangle without an area covers nothing but its first corner
    second = (point[:, 0] * other[:, 1] - point[:, 1] * other[:, 0]) / area
    third = (one[:, 0] * point[:, 1] - one[:, 1] * point[:, 0]) / area
    return np.stack([1 - second - third, second, third], axis=1)

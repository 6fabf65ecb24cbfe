"""The surface where a field's density reaches a threshold, and what is wrong with surfaces that are no objects.

It is scikit-image's marching cubes. PyMCubes gives the same mesh, but in float64, in twice the time, and it has no
wheels for Python 3.13. scikit-image's triangles face outward with `gradient_direction="ascent"`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.ml.errors import BadInput
from worker.ml.extra_packages import imported
from worker.ml.mesh.density import Volume

THRESHOLD = 25.0
"""The density at which the official program sees a surface."""
_ON_FACE = 1e-4
"""In cells: nearer to a face of the cube than this, a vertex is on it."""

Vertices = npt.NDArray[np.float32]
"""(V, 3)."""
Faces = npt.NDArray[np.int32]
"""(F, 3): places of a triangle's corners in `Vertices`, counterclockwise seen from outside."""


class EmptySurface(BadInput):
    """The network sees no object in the picture."""


class SurfaceTouchesBox(BadInput):
    """The object does not end inside the cube that the network can describe."""


@dataclass(frozen=True)
class Surface:
    """Triangles in the field's own coordinates."""

    vertices: Vertices
    faces: Faces


def isosurface(volume: Volume, threshold: float, radius: float) -> Surface:
    """Return where the densities of the cube of ±radius cross the threshold. Raises EmptySurface, SurfaceTouchesBox."""
    if volume.max() <= threshold:
        raise EmptySurface("no object was found in the picture: use one that shows it whole, before a plain background")
    if volume.min() >= threshold:
        raise SurfaceTouchesBox("the object fills all of the space that can be described: use a picture with a margin")
    marching_cubes = imported("skimage.measure").marching_cubes
    places, faces, _, _ = marching_cubes(volume, threshold, gradient_direction="ascent", allow_degenerate=False)
    vertices = places * np.float32(2 * radius / (len(volume) - 1)) - np.float32(radius)
    return Surface(vertices.astype(np.float32), faces.astype(np.int32))


def check_inside(surface: Surface, resolution: int, radius: float) -> None:
    """Raise SurfaceTouchesBox for a surface that reaches a face of the cube, where it is open."""
    farthest = np.abs(surface.vertices).max()
    if farthest > radius - _ON_FACE * 2 * radius / (resolution - 1):
        raise SurfaceTouchesBox(
            "the object reaches the edge of the space that can be described, and would be cut off there: use a picture "
            "that shows it whole, with a margin"
        )

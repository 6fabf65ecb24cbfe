"""A finished mesh as glTF wants it: y up, its front towards +z; colours at its vertices, or a texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.ml.mesh.surface import Faces, Surface, Vertices
from worker.ml.protocol import Pixels

Colours = npt.NDArray[np.float32]
"""(N, 3), sRGB in 0…1."""
_AXES = [1, 2, 0]
"""The field's y, z and x: right, up, and towards the camera that took the picture.

glTF's front faces +z. The official program's viewer turns a mesh by half a turn more, for a camera of its own."""


@dataclass(frozen=True)
class Texture:
    """A picture that covers the mesh."""

    uv: npt.NDArray[np.float32]
    """(V, 2), as glTF has it: from the picture's upper left corner."""
    pixels: Pixels
    """(H, W, 3), sRGB."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with normals, and one of two kinds of colour."""

    vertices: Vertices
    faces: Faces
    normals: Vertices
    """(V, 3), of unit length, outward."""
    colours: Colours | None
    """Of the vertices."""
    texture: Texture | None


def to_gltf_axes(positions: Vertices) -> Vertices:
    """Turn positions or directions (N, 3) from the field's axes to glTF's: a rotation."""
    return np.ascontiguousarray(positions[:, _AXES])


def vertex_normals(surface: Surface) -> Vertices:
    """Return the mean direction of the triangles at each vertex, weighted by area: (V, 3), of unit length."""
    corners = surface.vertices[surface.faces].astype(np.float64)
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # twice the area long
    sums = np.zeros((len(surface.vertices), 3))
    for corner in surface.faces.T:
        np.add.at(sums, corner, of_faces)
    sums[~sums.any(axis=1)] = (0, 0, 1)  # triangles without an area, or that cancel out: glTF wants a direction
    normals: Vertices = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return normals


def is_watertight(surface: Surface) -> bool:
    """Return True if every edge joins two triangles that run along it in opposite directions."""
    begins, ends = surface.faces.ravel().astype(np.int64), np.roll(surface.faces, -1, axis=1).ravel().astype(np.int64)
    count = len(surface.vertices)
    forward, backward = begins * count + ends, ends * count + begins
    return len(np.unique(forward)) == len(forward) and np.array_equal(np.sort(forward), np.sort(backward))

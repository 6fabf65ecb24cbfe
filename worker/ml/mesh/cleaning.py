"""Cleans a surface: only its largest component stays, with fewer triangles if too many, and no vertex twice."""

from __future__ import annotations

import numpy as np

from worker.ml.extra_packages import imported
from worker.ml.mesh.surface import Faces, Surface


def largest_component(surface: Surface) -> Surface:
    """Return the component with the most triangles: of a grid's surface, that is about the largest area."""
    count = len(surface.vertices)
    begins, ends = surface.faces.ravel(), np.roll(surface.faces, -1, axis=1).ravel()
    edges = imported("scipy.sparse").coo_array((np.ones(len(begins), bool), (begins, ends)), shape=(count, count))
    components, label = imported("scipy.sparse.csgraph").connected_components(edges, directed=False)
    if components == 1:
        return surface
    of_faces = label[surface.faces[:, 0]]
    return _used(surface, surface.faces[of_faces == np.bincount(of_faces).argmax()])


def decimated(surface: Surface, max_faces: int) -> Surface:
    """Return the surface with no more than about so many triangles, by edge collapses of least quadric error."""
    if len(surface.faces) <= max_faces:
        return surface
    simplify = imported("fast_simplification").simplify
    vertices, faces = simplify(surface.vertices, surface.faces, target_count=max_faces)
    return merged(Surface(vertices.astype(np.float32), faces.astype(np.int32)))


def merged(surface: Surface) -> Surface:
    """Return the surface with equal vertices merged, and without triangles that this makes lines or equal."""
    vertices, place = np.unique(surface.vertices, axis=0, return_inverse=True)
    faces = place.reshape(-1)[surface.faces].astype(np.int32)
    corners = np.sort(faces, axis=1)
    flat = (corners[:, :-1] == corners[:, 1:]).any(axis=1)
    _, first = np.unique(corners, axis=0, return_index=True)
    once = np.zeros(len(faces), bool)
    once[first] = True
    return _used(Surface(vertices, faces), faces[once & ~flat])


def _used(surface: Surface, faces: Faces) -> Surface:
    """Return some of a surface's triangles with the vertices that they use."""
    used, place = np.unique(faces, return_inverse=True)
    return Surface(surface.vertices[used], place.reshape(-1, 3).astype(np.int32))

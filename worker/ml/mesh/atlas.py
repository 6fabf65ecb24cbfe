"""Unwraps a mesh onto a square, by xatlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.ml.extra_packages import imported
from worker.ml.mesh.surface import Faces, Surface

MAX_FACES = 20_000
"""A mesh is decimated to this before it is unwrapped: the time grows faster than the number of triangles."""
SIDE_PX = 1024
"""Of the texture. The field's own detail is coarser: a plane has 64 cells a side, on which a texel is a sixteenth."""
_GUTTER_PX = 4
"""Between pieces, so that filtered texels do not mix those of neighbours."""


@dataclass(frozen=True)
class Atlas:
    """A mesh cut along seams, where its vertices are split."""

    origins: npt.NDArray[np.int64]
    """(V',): the vertex of the whole mesh that each one was."""
    faces: Faces
    uv: npt.NDArray[np.float32]
    """(V', 2) in 0…1."""


def unwrapped(surface: Surface) -> Atlas:
    """Unwrap a surface of at most about MAX_FACES triangles: seconds, which nothing can interrupt."""
    xatlas = imported("xatlas")
    atlas = xatlas.Atlas()
    atlas.add_mesh(surface.vertices, surface.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = SIDE_PX, _GUTTER_PX
    packing.create_image = False
    atlas.generate(pack_options=packing)
    origins, faces, uv = atlas[0]
    return Atlas(origins.astype(np.int64), faces.astype(np.int32), uv.astype(np.float32))

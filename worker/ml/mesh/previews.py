"""Pictures of a mesh by ray casting on the CPU with Embree: four views side by side, and a turntable.

No OpenGL: pods have none, and a picture of some hundred pixels takes a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.ml.extra_packages import imported
from worker.ml.mesh.chunks import Chunk
from worker.ml.mesh.shape import Mesh
from worker.ml.photos.colours import light_from_srgb, srgb_from_light
from worker.ml.protocol import Pixels

VIEWS_DEG = (0, 90, 180, 270)
"""Azimuths of the four views: the front, its right side as one looks at it, the back, its left side."""
VIEW_PX, FRAME_PX = 384, 256
"""A side of one view, and of the turntable."""
FRAMES, FRAME_MS = 24, 125
"""Of the turntable: one turn in three seconds."""
_ELEVATION_DEG, _FOV_DEG = 15.0, 30.0
_SAMPLES = 2
"""Rays along each side of a pixel."""
_BACKGROUND_LIGHT = 0.7
"""Linear, so that white and black products both stand out."""
_AMBIENT = 0.35
"""Of the light; the rest falls from the camera's upper left."""

Floats = npt.NDArray[np.float32]  # half the memory that float64 moves, and colours end in 8 bits


@dataclass(frozen=True)
class Scene:
    """A mesh that rays can hit, and what it takes to light it."""

    mesh: Mesh
    embree: Any  # embreex's EmbreeScene
    keeps_alive: Any
    """Embree's own copy of the triangles, which it refers to."""
    light: Floats
    """Colours as linear light: (V, 3) of vertices, or (H, W, 3) of the texture."""
    centre: npt.NDArray[np.float64]
    radius: float

    @classmethod
    def of(cls, mesh: Mesh) -> Scene:
        embree = imported("embreex.rtcore_scene").EmbreeScene()
        low, high = mesh.vertices.min(axis=0).astype(np.float64), mesh.vertices.max(axis=0).astype(np.float64)
        triangles = imported("embreex.mesh_construction").TriangleMesh(embree, mesh.vertices, mesh.faces)
        colours = mesh.texture.pixels / 255 if mesh.texture is not None else np.asarray(mesh.colours, np.float64)
        light = light_from_srgb(colours).astype(np.float32)
        return cls(mesh, embree, triangles, light, (low + high) / 2, float(np.linalg.norm(high - low)) / 2)

    def picture(self, azimuth_deg: float, side_px: int) -> Pixels:
        """Return the mesh (S, S, 3) as a camera sees it that was turned around the vertical axis, to its right."""
        samples = side_px * _SAMPLES
        origin, directions, light_from = self._camera(azimuth_deg, samples)
        origins = np.tile(origin, (len(directions), 1))
        hits = self.embree.run(origins, directions, output=True)
        hit = hits["primID"] >= 0
        picture = np.full((samples * samples, 3), _BACKGROUND_LIGHT, np.float32)
        picture[hit] = self._lit(hits["primID"][hit], hits["u"][hit], hits["v"][hit], light_from)
        mean = picture.reshape(side_px, _SAMPLES, side_px, _SAMPLES, 3).mean(axis=(1, 3))
        return (srgb_from_light(mean.astype(np.float64)) * 255).round().astype(np.uint8)

    def _camera(self, azimuth_deg: float, samples: int) -> tuple[Floats, Floats, Floats]:
        """Return where the camera is, its rays' directions (S·S, 3) row by row, and where the light comes from."""
        azimuth, elevation = math.radians(azimuth_deg), math.radians(_ELEVATION_DEG)
        right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
        level = np.array([math.sin(azimuth), 0.0, math.cos(azimuth)])  # to the camera, along the ground
        backwards = math.cos(elevation) * level + np.array([0.0, math.sin(elevation), 0.0])
        up = np.cross(backwards, right)
        half = math.radians(_FOV_DEG) / 2
        origin = self.centre + backwards * self.radius / math.sin(half)
        places = ((np.arange(samples) + 0.5) / samples * 2 - 1) * math.tan(half)
        rays = places[None, :, None] * right - places[:, None, None] * up - backwards
        light_from = backwards + 0.5 * up - 0.5 * right
        light_from /= np.linalg.norm(light_from)
        return origin.astype(np.float32), rays.reshape(-1, 3).astype(np.float32), light_from.astype(np.float32)

    def _lit(self, faces: npt.NDArray[np.int32], u: Floats, v: Floats, light_from: Floats) -> Floats:
        """Return the light (N, 3) of places on triangles. `u`, `v`: weights of the second and third corner."""
        corners = self.mesh.faces[faces]
        weights = np.stack([1 - u - v, u, v], axis=1)
        normals = np.einsum("nc,ncd->nd", weights, self.mesh.normals[corners])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
        facing = (normals @ light_from).clip(0, 1)
        shade: Floats = (_AMBIENT + (1 - _AMBIENT) * facing)[:, None]
        if self.mesh.texture is None:
            return np.asarray(np.einsum("nc,ncd->nd", weights, self.light[corners]) * shade)
        uv = np.einsum("nc,ncd->nd", weights, self.mesh.texture.uv[corners])
        height, width, _ = self.light.shape
        columns, rows = ((uv * (width, height)).astype(np.int64).clip(0, (width - 1, height - 1))).T
        return np.asarray(self.light[rows, columns] * shade)


def write_views(scene: Scene, path: Path) -> Generator[Chunk, None, None]:
    """Write the four views as one PNG: front and right above, back and left below."""
    views = []
    for number, azimuth in enumerate(VIEWS_DEG, 1):
        views.append(scene.picture(azimuth, VIEW_PX))
        yield Chunk(number, len(VIEWS_DEG))
    Image.fromarray(np.vstack([np.hstack(views[:2]), np.hstack(views[2:])])).save(path, optimize=True)


def write_turntable(scene: Scene, path: Path) -> Generator[Chunk, None, None]:
    """Write one turn around the mesh as an animated WebP that begins with its front."""
    frames = []
    for number in range(FRAMES):
        frames.append(Image.fromarray(scene.picture(360 * number / FRAMES, FRAME_PX)))
        yield Chunk(number + 1, FRAMES)
    frames[0].save(
        path, format="WEBP", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=80, method=4
    )

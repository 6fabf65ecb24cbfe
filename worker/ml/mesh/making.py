"""A mesh from a picture, stage by stage."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from worker.ml.errors import BadInput
from worker.ml.mesh import atlas, baking, cleaning, previews, shape, surface
from worker.ml.mesh.chunks import Chunk
from worker.ml.mesh.colours import colours_at
from worker.ml.mesh.density import Volume, densities
from worker.ml.mesh.files import Format, write
from worker.ml.mesh.progress import Done, Stages
from worker.ml.mesh.shape import Mesh, Texture
from worker.ml.mesh.surface import THRESHOLD, Surface
from worker.ml.networks.triposr.field import Field
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.phases import Phase
from worker.ml.protocol import Pixels
from worker.ml.stages import StageFigures

Colouring = Literal["vertex", "baked"]
RESOLUTIONS = {"fast": 128, "balanced": 256, "quality": 384}
"""Points a side of the grid that the surface is found on, by quality."""
MIN_FACES = 100
"""Fewer triangles show no object."""
SHARES = {
    "reading the picture": 0.15,
    "computing densities": 0.45,
    "finding the surface": 0.1,
    "cleaning the surface": 0.05,
    "colouring": 0.1,
    "writing the model": 0.05,
    "drawing previews": 0.1,
}
"""Of the whole, by stage: exact enough for a progress bar."""


@dataclass(frozen=True)
class MeshRequest:
    """What to make of a picture."""

    resolution: int
    colouring: Colouring = "vertex"
    file_format: Format = "glb"
    max_faces: int | None = None
    """None: as many as the surface has, or as an atlas takes."""


@dataclass(frozen=True)
class Made:
    """A finished model. Lengths are in the file's units, in which the network's whole space is a cube of ±radius."""

    files: list[Path]
    """The model itself first, then what it refers to."""
    preview: Path
    turntable: Path
    faces: int
    vertices: int
    """In the file: along the seams of a texture, some are there several times."""
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]]
    """The lowest and the highest x, y and z."""
    watertight: bool
    stages: list[StageFigures]


Making = Generator[Phase | Done, None, Made]


def make_mesh(network: TripoSR, picture: Pixels, request: MeshRequest, folder: Path) -> Making:
    """Make a model of the object in a picture (H, W, 3) on grey, and write it and its previews into a folder.

    To stop, stop iterating: nothing but the folder was changed. Raises EmptySurface, SurfaceTouchesBox, NotFinite, and
    PackageMissing without the extra `mesh`, and BadInput.
    """
    if request.max_faces is not None and request.max_faces < MIN_FACES:
        raise BadInput(f"max_faces must be at least {MIN_FACES}, not {request.max_faces}")
    stages = Stages(network.device, SHARES)
    seen = yield from stages.run("reading the picture", lambda: network.field(picture))
    volume = yield from stages.run_chunks("computing densities", densities(seen, request.resolution))
    found = yield from stages.run("finding the surface", partial(_found, volume, seen.radius))
    del volume
    whole = yield from stages.run("cleaning the surface", lambda: cleaning.decimated(found, _max_faces(request, found)))
    coloured = baked_mesh(seen, whole) if request.colouring == "baked" else coloured_mesh(seen, whole)
    mesh = yield from stages.run_chunks("colouring", coloured)
    files = yield from stages.run("writing the model", lambda: write(mesh, request.file_format, folder))
    preview, turntable = folder / "preview.png", folder / "turntable.webp"
    yield from stages.run_chunks("drawing previews", _previews(mesh, preview, turntable))
    low, high = (tuple(corner.tolist()) for corner in (mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)))
    return Made(
        files=files,
        preview=preview,
        turntable=turntable,
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        bounds=(low, high),
        watertight=shape.is_watertight(whole),
        stages=stages.figures,
    )


def _found(volume: Volume, radius: float) -> Surface:
    largest = cleaning.largest_component(surface.isosurface(volume, THRESHOLD, radius))
    surface.check_inside(largest, len(volume), radius)
    return largest


def _max_faces(request: MeshRequest, found: Surface) -> int:
    most = len(found.faces) if request.max_faces is None else request.max_faces
    return min(most, atlas.MAX_FACES) if request.colouring == "baked" else most


def coloured_mesh(seen: Field, whole: Surface) -> Generator[Chunk, None, Mesh]:
    """Return a surface with the field's colours at its vertices."""
    colours = yield from colours_at(seen, whole.vertices)
    return _mesh(whole, colours=colours)


def baked_mesh(seen: Field, whole: Surface) -> Generator[Chunk, None, Mesh]:
    """Return a surface with the field's colours in a texture."""
    cut = atlas.unwrapped(whole)
    pixels = yield from baking.baked(seen, cut, whole.vertices[cut.origins], atlas.SIDE_PX)
    mesh = _mesh(whole, colours=None)
    return replace(
        mesh,
        vertices=mesh.vertices[cut.origins],
        normals=mesh.normals[cut.origins],  # of the whole surface, so that seams do not show
        faces=cut.faces,
        texture=Texture(cut.uv, pixels),
    )


def _mesh(whole: Surface, *, colours: shape.Colours | None) -> Mesh:
    return Mesh(
        vertices=shape.to_gltf_axes(whole.vertices),
        faces=whole.faces,
        normals=shape.to_gltf_axes(shape.vertex_normals(whole)),
        colours=colours,
        texture=None,
    )


def _previews(mesh: Mesh, preview: Path, turntable: Path) -> Generator[Chunk, None, None]:
    scene = previews.Scene.of(mesh)
    total = len(previews.VIEWS_DEG) + previews.FRAMES
    for chunk in previews.write_views(scene, preview):
        yield Chunk(chunk.done, total)
    for chunk in previews.write_turntable(scene, turntable):
        yield Chunk(len(previews.VIEWS_DEG) + chunk.done, total)

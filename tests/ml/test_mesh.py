"""Models from pictures: surfaces, colours, files that others open, previews, progress, and surfaces that are none."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import KDTree

from tests.ml.products import DARK, RED, YELLOW, mug
from tests.ml.runs import finish
from worker.ml.cutout.cutting import cut_out
from worker.ml.cutout.foreground import centred
from worker.ml.errors import BadInput, NotFinite, PackageMissing
from worker.ml.mesh import atlas, cleaning, making, previews, shape
from worker.ml.mesh.chunks import Chunk
from worker.ml.mesh.colours import colours_at
from worker.ml.mesh.density import densities
from worker.ml.mesh.files import write
from worker.ml.mesh.making import SHARES, Made, MeshRequest, baked_mesh, coloured_mesh, make_mesh
from worker.ml.mesh.progress import Done
from worker.ml.mesh.shape import Mesh
from worker.ml.mesh.surface import (
    THRESHOLD,
    EmptySurface,
    Surface,
    SurfaceTouchesBox,
    check_inside,
    isosurface,
)
from worker.ml.networks.triposr import loading
from worker.ml.networks.triposr.field import Field
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.networks.triposr.tiny import build_tiny
from worker.ml.phases import Phase
from worker.ml.photos.colours import light_from_srgb
from worker.ml.protocol import Pixels

RESOLUTION = 40
RADIUS = 0.87


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TripoSR:
    folder = tmp_path_factory.mktemp("triposr")
    build_tiny(folder)
    return loading.load(folder, device="cpu")


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return centred(cut_out(np.asarray(mug((0, 0, 0, 0))), None)[1])


@pytest.fixture(scope="module")
def field(network: TripoSR, picture: Pixels) -> Field:
    return network.field(picture)


@pytest.fixture(scope="module")
def surface(field: Field) -> Surface:
    return cleaning.largest_component(isosurface(finish(densities(field, RESOLUTION)), THRESHOLD, field.radius))


@pytest.fixture(scope="module")
def coloured(field: Field, surface: Surface) -> Mesh:
    return finish(coloured_mesh(field, surface))


@pytest.fixture(scope="module")
def baked(field: Field, surface: Surface) -> Mesh:
    return finish(baked_mesh(field, cleaning.decimated(surface, 1500)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews that take no time."""
    monkeypatch.setattr(previews, "FRAMES", 3)
    monkeypatch.setattr(previews, "FRAME_PX", 32)
    monkeypatch.setattr(previews, "VIEW_PX", 32)


def sphere(resolution: int, radius: float, centre: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Densities of a ball that reach the threshold at its surface."""
    line = np.linspace(-RADIUS, RADIUS, resolution)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid - np.array(centre), axis=-1)
    return (THRESHOLD + 50 * (radius - distance)).clip(0).astype(np.float32)


def ball(resolution: int, radius: float, centre: tuple[float, float, float] = (0, 0, 0)) -> Surface:
    return isosurface(sphere(resolution, radius, centre), THRESHOLD, RADIUS)


def read_glb(path: Path) -> tuple[dict[str, Any], Callable[[int], np.ndarray]]:
    """The JSON of a binary glTF, and a function that reads an accessor's numbers."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    tree = json.loads(content[20 : 20 + length])
    binary = content[28 + length :]
    dtypes = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}

    def numbers(index: int) -> np.ndarray:
        accessor = tree["accessors"][index]
        begin = tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
        width = widths[accessor["type"]]
        flat = np.frombuffer(binary, dtypes[accessor["componentType"]], accessor["count"] * width, begin)
        return flat.reshape(-1, width)

    return tree, numbers


def primitive_of(tree: dict[str, Any]) -> dict[str, Any]:
    (mesh,) = tree["meshes"]
    (primitive,) = mesh["primitives"]
    found: dict[str, Any] = primitive
    return found


def test_a_picture_becomes_a_model_with_previews_and_facts(
    network: TripoSR, picture: Pixels, tmp_path: Path, quick: None
) -> None:
    events: list[Any] = []
    made: Made = finish(make_mesh(network, picture, MeshRequest(RESOLUTION), tmp_path), events)
    assert made.files == [tmp_path / "mesh.glb"]
    mesh = trimesh.load(made.files[0], force="mesh", process=False)
    assert (len(mesh.faces), len(mesh.vertices)) == (made.faces, made.vertices)
    np.testing.assert_allclose(mesh.bounds, made.bounds, atol=1e-6)
    assert made.watertight == mesh.is_watertight is True
    assert Image.open(made.preview).size == (64, 64)
    assert Image.open(made.turntable).n_frames == 3

    assert [event.name for event in events if isinstance(event, Phase)] == list(SHARES)
    fractions = [event.fraction for event in events if isinstance(event, Done)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert [figures.name for figures in made.stages] == list(SHARES)
    assert all(figures.seconds >= 0 and figures.device_bytes is None for figures in made.stages)
    assert all(figures.host_bytes is None or figures.host_bytes > 2**26 for figures in made.stages)


@pytest.mark.parametrize("stage", ["computing densities", "colouring", "drawing previews"])
def test_a_run_stops_after_a_chunk(
    network: TripoSR, picture: Pixels, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("worker.ml.mesh.chunks._HOST_BYTES", 2**18)
    run = make_mesh(network, picture, MeshRequest(24), tmp_path)
    for event in run:
        if event == Phase(stage):
            break
    assert isinstance(next(run), Done)
    run.close()
    assert not (tmp_path / "turntable.webp").exists()
    assert (tmp_path / "mesh.glb").exists() == (stage == "drawing previews")


def test_the_model_stands_upright_and_faces_its_camera(coloured: Mesh) -> None:
    """glTF: y up, front towards +z. So the mug's handle, on the picture's right, is at +x, and its dark top at +y."""
    low, high = coloured.vertices.min(axis=0), coloured.vertices.max(axis=0)
    handle = coloured.vertices[coloured.vertices[:, 0] > high[0] - 0.1 * (high - low)[0]]
    assert np.abs(handle[:, 1] - (low + high)[1] / 2).max() < 0.35 * (high - low)[1]  # not as high as the mug
    front = coloured.vertices[:, 2] > 0.8 * high[2]

    def colour_at(x: float, y: float) -> np.ndarray:
        places = coloured.vertices[front][:, :2]
        (nearest,) = KDTree(places).query([[x, y]])[1]
        assert coloured.colours is not None
        return np.asarray(coloured.colours[front][nearest] * 255)

    middle = -0.15
    for y, colour in ((high[1] * 0.8, DARK), (0.3, RED), (-0.03, YELLOW), (low[1] * 0.6, RED)):
        assert np.abs(colour_at(middle, y) - colour).max() < 45


def test_triangles_and_normals_face_outward(coloured: Mesh) -> None:
    mesh = trimesh.Trimesh(coloured.vertices, coloured.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    np.testing.assert_allclose(np.linalg.norm(coloured.normals, axis=1), 1, atol=1e-5)
    assert ((mesh.vertex_normals * coloured.normals).sum(axis=1) > 0.7).mean() > 0.99


def test_normals_of_a_ball_point_away_from_its_middle() -> None:
    surface = ball(32, 0.5, (0.1, -0.1, 0.2))
    outward = surface.vertices - np.float32((0.1, -0.1, 0.2))
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (shape.vertex_normals(surface) * outward).sum(axis=1).min() > 0.98


def test_every_vertex_has_a_normal() -> None:
    """Also one whose triangles cancel out: glTF wants a direction."""
    both_sides = Surface(np.eye(3, dtype=np.float32), np.int32([[0, 1, 2], [0, 2, 1]]))
    np.testing.assert_array_equal(shape.vertex_normals(both_sides), [(0, 0, 1)] * 3)


def test_colours_in_a_glb_are_linear_light_in_16_bits(coloured: Mesh, tmp_path: Path) -> None:
    tree, numbers = read_glb(*write(coloured, "glb", tmp_path))
    attributes = primitive_of(tree)["attributes"]
    assert attributes.keys() == {"POSITION", "NORMAL", "COLOR_0"}
    accessor = tree["accessors"][attributes["COLOR_0"]]
    assert (accessor["componentType"], accessor["normalized"], accessor["type"]) == (5123, True, "VEC4")
    colours = numbers(attributes["COLOR_0"]) / 65535
    assert coloured.colours is not None
    np.testing.assert_allclose(colours[:, :3], light_from_srgb(coloured.colours), atol=1e-5)
    assert (colours[:, 3] == 1).all()
    np.testing.assert_array_equal(numbers(attributes["POSITION"]), coloured.vertices)
    np.testing.assert_allclose(numbers(attributes["NORMAL"]), coloured.normals, atol=1e-6)


@pytest.mark.parametrize("kind", ["coloured", "baked"])
def test_the_material_is_matt(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    tree, _ = read_glb(*write(request.getfixturevalue(kind), "glb", tmp_path))
    material = tree["materials"][primitive_of(tree)["material"]]["pbrMetallicRoughness"]
    assert (material["metallicFactor"], material["roughnessFactor"]) == (0, 1)
    assert ("baseColorTexture" in material) == (kind == "baked")


def test_a_baked_texture_has_the_fields_colours(baked: Mesh, field: Field, tmp_path: Path) -> None:
    """Read back from the file, at points all over the surface."""
    mesh = trimesh.load(*write(baked, "glb", tmp_path), force="mesh", process=False)
    points, faces = trimesh.sample.sample_surface(mesh, 3000, seed=0)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points)
    u, v = np.einsum("nc,ncd->nd", weights, mesh.visual.uv[mesh.faces[faces]]).T
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    height, width, _ = texture.shape
    seen = texture[((1 - v) * height).astype(int), (u * width).astype(int)]
    in_field = points[:, [2, 0, 1]].astype(np.float32)  # glTF's axes turned back
    wanted = finish(colours_at(field, in_field)) * 255
    difference = np.abs(seen - wanted).max(axis=1)
    assert np.mean(difference) < 3
    assert np.quantile(difference, 0.99) < 20


def test_texels_around_the_pieces_of_a_texture_have_colours_too(baked: Mesh) -> None:
    assert baked.texture is not None
    assert not (baked.texture.pixels == 0).all(axis=-1).any()


def test_the_seams_of_a_texture_do_not_show_in_the_normals(baked: Mesh) -> None:
    places, copies = np.unique(baked.vertices, axis=0, return_inverse=True)
    assert len(places) < len(baked.vertices)
    first = np.zeros_like(baked.normals[: len(places)])
    first[copies.reshape(-1)] = baked.normals
    np.testing.assert_array_equal(baked.normals, first[copies.reshape(-1)])


def test_a_baked_model_is_decimated_first_and_still_counts_as_watertight(
    network: TripoSR, picture: Pixels, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "MAX_FACES", 800)
    monkeypatch.setattr(atlas, "SIDE_PX", 128)
    made = finish(make_mesh(network, picture, MeshRequest(24, "baked"), tmp_path))
    assert 600 < made.faces <= 800
    assert made.watertight
    assert made.vertices > made.faces / 2 + 2  # seams


def test_an_obj_has_its_colours_in_the_file_or_in_a_picture_beside_it(
    coloured: Mesh, baked: Mesh, tmp_path: Path
) -> None:
    (model,) = write(coloured, "obj", tmp_path)
    mesh = trimesh.load(model, force="mesh", process=False)
    assert coloured.colours is not None
    assert len(mesh.vertices) == len(coloured.vertices)
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255 - coloured.colours).max() <= 0.5 / 255 + 1e-6

    (tmp_path / "baked").mkdir()
    model, *others = write(baked, "obj", tmp_path / "baked")
    assert {path.suffix for path in others} == {".mtl", ".png"}
    mesh = trimesh.load(model, force="mesh", process=False)
    assert baked.texture is not None
    assert mesh.visual.material.image.size == baked.texture.pixels.shape[:2]
    np.testing.assert_allclose(mesh.bounds, [baked.vertices.min(axis=0), baked.vertices.max(axis=0)], atol=1e-6)


def test_an_stl_has_the_shape_alone(coloured: Mesh, tmp_path: Path) -> None:
    (model,) = write(coloured, "stl", tmp_path)
    mesh = trimesh.load(model, force="mesh")
    assert len(mesh.faces) == len(coloured.faces)
    assert mesh.is_watertight


def test_a_surface_is_decimated_to_the_wanted_number_of_triangles(surface: Surface) -> None:
    fewer = cleaning.decimated(surface, 1000)
    assert 900 < len(fewer.faces) <= 1000
    assert shape.is_watertight(fewer)
    whole, part = (trimesh.Trimesh(each.vertices, each.faces, process=False) for each in (surface, fewer))
    assert part.volume == pytest.approx(whole.volume, rel=0.02)
    np.testing.assert_allclose(part.bounds, whole.bounds, atol=0.03)
    assert cleaning.decimated(surface, 10**6) is surface


@pytest.mark.parametrize("max_faces", [0, -1, 99])
def test_too_few_triangles_are_refused_before_anything_is_done(
    network: TripoSR, picture: Pixels, tmp_path: Path, max_faces: int
) -> None:
    with pytest.raises(BadInput, match=f"max_faces must be at least 100, not {max_faces}"):
        next(make_mesh(network, picture, MeshRequest(24, max_faces=max_faces), tmp_path))


def test_only_the_largest_component_stays() -> None:
    both = isosurface(np.maximum(sphere(40, 0.4, (0.3, 0, 0)), sphere(40, 0.15, (-0.6, 0, 0))), THRESHOLD, RADIUS)
    largest = cleaning.largest_component(both)
    assert both.vertices[:, 0].min() < -0.6
    assert largest.vertices[:, 0].min() > -0.15
    assert shape.is_watertight(largest)


def test_equal_vertices_are_merged_and_flat_triangles_dropped() -> None:
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    faces = np.int32([[0, 1, 2], [0, 3, 4], [1, 3, 2], [2, 0, 1]])
    merged = cleaning.merged(Surface(vertices, faces))
    assert len(merged.vertices) == 4
    assert len(merged.faces) == 2  # one was flat, one there twice


def test_a_hole_is_noticed() -> None:
    surface = ball(24, 0.5)
    assert shape.is_watertight(surface)
    assert not shape.is_watertight(replace(surface, faces=surface.faces[1:]))
    turned = surface.faces.copy()
    turned[0] = turned[0, ::-1]
    assert not shape.is_watertight(replace(surface, faces=turned))


def test_a_picture_in_which_no_object_is_seen_is_refused(network: TripoSR, tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 127, np.uint8)
    with pytest.raises(EmptySurface, match="no object was found in the picture"):
        finish(make_mesh(network, grey, MeshRequest(24), tmp_path))
    assert not [*tmp_path.iterdir()]


def test_an_object_that_fills_the_picture_is_refused(network: TripoSR, tmp_path: Path) -> None:
    red = np.full((64, 64, 3), RED, np.uint8)
    with pytest.raises(SurfaceTouchesBox, match="reaches the edge of the space"):
        finish(make_mesh(network, red, MeshRequest(24), tmp_path))
    with pytest.raises(SurfaceTouchesBox, match="fills all of the space"):
        isosurface(np.full((8, 8, 8), 2 * THRESHOLD, np.float32), THRESHOLD, RADIUS)


def test_only_what_stays_must_be_inside() -> None:
    """A speck that touches a face of the cube is dropped with all smaller components."""
    volume = np.maximum(sphere(40, 0.4), sphere(40, 0.1, (RADIUS, 0, 0)))
    both = isosurface(volume, THRESHOLD, RADIUS)
    with pytest.raises(SurfaceTouchesBox):
        check_inside(both, 40, RADIUS)
    check_inside(cleaning.largest_component(both), 40, RADIUS)


@pytest.mark.parametrize("value", [torch.nan, 1e6])
def test_numbers_that_are_not_finite_are_no_surface(field: Field, value: float) -> None:
    """One is a fault of the weights, the other overflows when the density is made of it."""
    broken = replace(field, config=field.config.model_copy(update={"density_bias": value}))
    with pytest.raises(NotFinite, match="densities that are not finite"):
        finish(densities(broken, 16))


def test_a_network_that_gives_no_numbers_is_named(network: TripoSR, picture: Pixels) -> None:
    bias = network.post_processor.upsample.bias
    assert bias is not None
    bias.data[0] = torch.nan
    try:
        with pytest.raises(NotFinite, match="install its official weights again"):
            network.field(picture)
    finally:
        bias.data[0] = 0


def test_little_memory_makes_more_chunks_and_the_same_model(
    field: Field, surface: Surface, device_of_its_own: Callable[[int], None]
) -> None:
    wanted = finish(densities(field, RESOLUTION))
    device_of_its_own(2**17)
    events: list[Chunk] = []
    volume = finish(densities(field, RESOLUTION), events)
    assert len(events) > 100
    assert events[-1] == Chunk(RESOLUTION**2, RESOLUTION**2)
    np.testing.assert_allclose(volume, wanted, rtol=1e-5)
    chunks: list[Chunk] = []
    colours = finish(colours_at(field, surface.vertices), chunks)
    assert len(chunks) > 10
    np.testing.assert_allclose(colours, field.sample(torch.from_numpy(surface.vertices)).colours, atol=1e-6)


@pytest.mark.parametrize("kind", ["coloured", "baked"])
def test_the_front_view_shows_the_picture(request: pytest.FixtureRequest, kind: str, picture: Pixels) -> None:
    scene = previews.Scene.of(request.getfixturevalue(kind))
    front = scene.picture(0, 96)
    object_pixels = (np.abs(front.astype(int) - front[0, 0]) > 8).any(axis=-1)
    wanted = np.asarray(Image.fromarray((picture != 127).any(axis=-1)).resize((96, 96)))

    def cropped(mask: np.ndarray) -> np.ndarray:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.asarray(Image.fromarray(part).resize((64, 64)))

    assert (cropped(object_pixels) == cropped(wanted)).mean() > 0.9
    red, green, blue = front[40, 40].astype(int)
    assert red > 1.8 * max(green, blue)
    # From behind it is mirrored, and from the side only as deep as the relief.
    back, side = scene.picture(180, 96), scene.picture(90, 96)
    assert (cropped((np.abs(back.astype(int) - back[0, 0]) > 8).any(axis=-1))[:, ::-1] == cropped(wanted)).mean() > 0.9
    widths = [np.count_nonzero((view != view[0, 0]).any(axis=(0, 2))) for view in (front, side)]
    assert widths[1] < 0.7 * widths[0]


def test_views_and_turntable_are_pictures(coloured: Mesh, tmp_path: Path, quick: None) -> None:
    scene = previews.Scene.of(coloured)
    finish(previews.write_views(scene, tmp_path / "views.png"))
    finish(previews.write_turntable(scene, tmp_path / "turntable.webp"))
    views = np.asarray(Image.open(tmp_path / "views.png"))
    quarters = [views[:32, :32], views[:32, 32:], views[32:, :32], views[32:, 32:]]
    for azimuth, quarter in zip((0, 90, 180, 270), quarters, strict=True):
        np.testing.assert_array_equal(quarter, scene.picture(azimuth, 32))
    turntable = Image.open(tmp_path / "turntable.webp")
    assert (turntable.n_frames, turntable.info["loop"]) == (3, 0)
    first = np.asarray(turntable.convert("RGB")).astype(int)
    assert np.abs(first - quarters[0]).mean() < 8


@pytest.mark.parametrize("package", ["skimage.measure", "embreex.rtcore_scene", "trimesh"])
def test_without_the_extra_the_missing_package_is_named(
    network: TripoSR, picture: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(PackageMissing, match=f"the package {name} is not installed: it comes with the extra mesh"):
        finish(make_mesh(network, picture, MeshRequest(24), tmp_path))


def test_the_extra_and_diffusers_are_imported_by_nobody_before_they_are_used() -> None:
    packages = ("skimage", "scipy", "trimesh", "fast_simplification", "xatlas", "embreex", "onnxruntime", "diffusers")
    modules = "worker.ml.mesh.making, worker.ml.cutout.cutting, worker.ml.single_files.mesh"
    code = f"import sys\nsys.modules.update(dict.fromkeys({packages!r}))\nimport {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_quality_is_finer_than_the_one_before() -> None:
    assert making.RESOLUTIONS == {"fast": 128, "balanced": 256, "quality": 384}

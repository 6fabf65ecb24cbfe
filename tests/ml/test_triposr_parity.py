"""TripoSR, number by number, beside the official program.

The numbers come from `tests/data/triposr/`, or from the folder that LIKENESS_TRIPOSR_REFERENCE names. Tolerances are a
few times what the official program itself differs by between versions of its libraries, in float32.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file
from scipy.spatial import KDTree

from tests.ml.runs import finish
from worker.ml.cutout.foreground import centred
from worker.ml.mesh.density import densities
from worker.ml.mesh.surface import Surface, isosurface
from worker.ml.networks.triposr import grid, loading
from worker.ml.networks.triposr.cameras import Orbit, rays
from worker.ml.networks.triposr.config import VITS
from worker.ml.networks.triposr.field import Field, Samples
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.networks.triposr.renderer import render
from worker.ml.networks.triposr.vit import interpolated

DATA = Path(__file__).parent.parent / "data" / "triposr"
REFERENCE = Path(os.environ.get("LIKENESS_TRIPOSR_REFERENCE") or DATA)
CASE: dict[str, Any] = json.loads((REFERENCE / "case.json").read_text())
OFFICIAL = REFERENCE / "official" if (REFERENCE / "official").is_dir() else DATA / "official"
KEYS = next(folder / "official_keys.txt" for folder in (REFERENCE, DATA) if (folder / "official_keys.txt").is_file())

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def expected() -> Tensors:
    return load_file(REFERENCE / "expected.safetensors")


@pytest.fixture(scope="module")
def network() -> TripoSR:
    return loading.load(REFERENCE, device="cpu")


@pytest.fixture(scope="module")
def field(network: TripoSR) -> Field:
    return network.field(np.asarray(Image.open(REFERENCE / "input.png").convert("RGB")))


@pytest.fixture(scope="module")
def at_points(field: Field, expected: Tensors) -> Samples:
    return field.sample(expected["query_points"])


@pytest.fixture(scope="module")
def surface(field: Field) -> Surface:
    """The isosurface at the case's resolution and threshold."""
    resolution, threshold = CASE["marching_cubes"]["resolution"], CASE["marching_cubes"]["threshold"]
    return isosurface(finish(densities(field, resolution)), threshold, field.radius)


def assert_within(ours: torch.Tensor, theirs: torch.Tensor, *, atol: float = 0.0, rtol: float = 0.0) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=rtol)


def test_the_picture_is_prepared_as_the_official_program_does(network: TripoSR, expected: Tensors) -> None:
    prepared = network.prepared(np.asarray(Image.open(REFERENCE / "input.png").convert("RGB")))
    assert_within(prepared, expected["preprocessed"], atol=1e-6)


def test_positions_are_interpolated_by_the_old_rule(network: TripoSR, expected: Tensors) -> None:
    embeddings = network.image_tokenizer.model.embeddings
    side = round((expected["interpolated_position_embeddings"].shape[1] - 1) ** 0.5)
    ours = interpolated(embeddings.position_embeddings, side, side)
    assert_within(ours, expected["interpolated_position_embeddings"], atol=1e-6)


def test_tokens_and_scene_codes(network: TripoSR, expected: Tensors) -> None:
    with torch.no_grad():
        tokens = network.image_tokenizer(expected["preprocessed"])
        backbone = network.backbone(network.tokenizer(1), expected["image_tokens"])
    assert_within(tokens, expected["image_tokens"], atol=2e-5)
    assert_within(backbone, expected["backbone_tokens"], atol=2e-5)
    assert_within(network.scene_codes(expected["preprocessed"]), expected["scene_codes"], atol=5e-5)


def test_a_picture_becomes_the_same_field(field: Field, expected: Tensors) -> None:
    assert_within(field.planes[None], expected["scene_codes"], atol=5e-5)


def test_densities_and_colours_at_points(at_points: Samples, expected: Tensors) -> None:
    assert_within(at_points.raw_density[:, None], expected["query_density"], atol=5e-5)
    assert_within(at_points.density[:, None], expected["query_density_act"], rtol=1e-4)
    assert_within(at_points.raw_colours, expected["query_features"], atol=5e-5)
    assert_within(at_points.colours, expected["query_color"], atol=1e-5)


@pytest.mark.parametrize("rows", [100, 7, 10**6])
def test_densities_on_a_grid_in_chunks_of_any_size(field: Field, expected: Tensors, rows: int) -> None:
    theirs = expected["grid_density_act"]
    chunks = [chunk.densities for chunk in grid.densities(field, len(theirs), rows)]
    assert [len(chunk) for chunk in chunks[:-1]] == [rows] * (len(chunks) - 1)
    assert_within(torch.cat(chunks).reshape(theirs.shape), theirs, rtol=1e-4)


def test_rays_of_cameras(expected: Tensors) -> None:
    origins, directions = rays(Orbit(**CASE["camera"]))
    assert_within(origins, expected["rays_o"], atol=1e-6)
    assert_within(directions, expected["rays_d"], atol=1e-6)


def test_pictures_by_volume_rendering(field: Field, expected: Tensors) -> None:
    pictures = render(field, expected["rays_o"][:, None, None], expected["rays_d"])
    assert_within(pictures, expected["render_rgb"], atol=1e-5)


def test_the_isosurface(surface: Surface, expected: Tensors) -> None:
    """As sets of points: theirs has a few vertices twice, and their order depends on its threads."""
    vertices, faces = surface.vertices, surface.faces
    theirs = expected["mesh_vertices"].numpy()
    assert KDTree(vertices).query(theirs)[0].max() < 1e-4
    assert KDTree(theirs).query(vertices)[0].max() < 1e-4
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(CASE["mesh"]["volume"], rel=1e-4)  # above 0: triangles face outward
    assert mesh.area == pytest.approx(CASE["mesh"]["area"], rel=1e-4)
    np.testing.assert_allclose(mesh.bounds, CASE["mesh"]["bounds"], atol=1e-4)
    assert abs(len(faces) - CASE["mesh"]["raw_faces"]) <= 0.02 * CASE["mesh"]["raw_faces"]


def test_colours_of_the_isosurface(field: Field, expected: Tensors) -> None:
    assert_within(field.sample(expected["mesh_vertices"]).colours, expected["mesh_vertex_colors"], atol=1e-5)


def test_the_foreground_is_cropped_as_the_official_program_does() -> None:
    cutout = np.asarray(Image.open(REFERENCE / "foreground_rgba.png"))
    theirs = np.asarray(Image.open(REFERENCE / "foreground_expected.png").convert("RGB"))
    np.testing.assert_array_equal(
        centred(cutout, CASE["foreground"]["ratio"], CASE["foreground"]["background"]), theirs
    )


def test_the_official_checkpoint_has_exactly_the_full_sized_networks_keys(tmp_path: Path) -> None:
    """With the configuration as it is published: it names its vision transformer, and repeats a value by reference."""
    (tmp_path / "config.yaml").write_text((OFFICIAL / "config.json").read_text())
    published = [line.split("\t") for line in KEYS.read_text().splitlines() if not line.startswith("#")]
    ours = loading.build(tmp_path).state_dict()
    assert {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in ours.items()} == {
        name: (json.loads(shape), f"torch.{dtype}") for name, shape, dtype in published
    }


def test_the_vision_transformer_that_the_official_file_names_is_known() -> None:
    wanted = json.loads((OFFICIAL / "vit_config.json").read_text())
    (known,) = (json.loads(path.read_text()) for path in VITS.values())
    assert known == wanted

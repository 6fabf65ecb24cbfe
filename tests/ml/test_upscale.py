from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel import ModelLoader

from worker.demo.drawing.portrait import Person, draw, scenes
from worker.ml.errors import ModelUnreadable
from worker.ml.networks import real_esrgan


@pytest.fixture(scope="module")
def portrait() -> npt.NDArray[np.uint8]:
    (scene,) = scenes(1, 3)
    return np.asarray(draw(Person.example(), scene, (96, 128)))


@pytest.fixture(params=[2, 4])
def weights(request: pytest.FixtureRequest, tiny_models: Path) -> Path:
    return tiny_models / f"real-esrgan-x{request.param}" / "model.safetensors"


def plain_spandrel(weights: Path, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    network = ModelLoader().load_from_file(weights)
    enlarged = network(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)
    return (enlarged[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def enlarged(pixels: npt.NDArray[np.uint8], scale: int, how: Image.Resampling) -> npt.NDArray[np.uint8]:
    height, width, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width * scale, height * scale), how))


@pytest.mark.parametrize("size", [(128, 96), (63, 50), (33, 90)])
def test_the_picture_equals_that_of_spandrel(
    weights: Path, portrait: npt.NDArray[np.uint8], size: tuple[int, int]
) -> None:
    pixels = portrait[: size[0], : size[1]]
    upscaler = real_esrgan.load(weights, "cpu")
    ours = upscaler.upscale(pixels)
    assert ours.shape == (size[0] * upscaler.scale, size[1] * upscaler.scale, 3)
    np.testing.assert_array_equal(ours, plain_spandrel(weights, pixels))


def test_the_tiny_network_draws_a_recognisable_picture_of_its_own(
    weights: Path, portrait: npt.NDArray[np.uint8]
) -> None:
    upscaler = real_esrgan.load(weights, "cpu")
    ours = upscaler.upscale(portrait).astype(float)
    smooth = enlarged(portrait, upscaler.scale, Image.Resampling.BICUBIC).astype(float)
    assert np.abs(ours - smooth).max() > 20
    assert np.abs(ours - smooth).mean() < 8


def assert_seamless(tiled: npt.NDArray[np.uint8], whole: npt.NDArray[np.uint8]) -> None:
    """Check that both are equal, except that the last bit of a float32 sum rarely changes a rounding to 8 bits."""
    difference = np.abs(tiled.astype(int) - whole.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@pytest.mark.parametrize("tile", [32, 48])
def test_tiles_leave_no_seams(weights: Path, portrait: npt.NDArray[np.uint8], tile: int) -> None:
    """One block reaches 20 pixels, twice as many where 2x2 pixels are folded: the overlap covers that."""
    upscaler = real_esrgan.load(weights, "cpu")
    pixels = portrait[:127, :94]  # not multiples of the tile
    assert_seamless(upscaler.upscale(pixels, tile=tile, overlap=44), upscaler.upscale(pixels))


def test_without_overlap_there_would_be_seams(weights: Path, portrait: npt.NDArray[np.uint8]) -> None:
    upscaler = real_esrgan.load(weights, "cpu")
    tiled, whole = upscaler.upscale(portrait, tile=32, overlap=0), upscaler.upscale(portrait)
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() > 5


def test_the_default_tiles_are_seamless_for_a_large_picture(weights: Path, portrait: npt.NDArray[np.uint8]) -> None:
    upscaler = real_esrgan.load(weights, "cpu")
    large = np.tile(portrait, (5, 1, 1))[:560, :72]
    assert_seamless(upscaler.upscale(large), upscaler.upscale(large, tile=1024))


def test_only_real_upscalers_in_safetensors_are_loaded(tmp_path: Path) -> None:
    pickled, foreign, missing = (tmp_path / name for name in ("model.pth", "lora.safetensors", "gone.safetensors"))
    pickled.write_bytes(pickle.dumps({}))
    save_file({"some.weight": torch.ones(2)}, foreign)
    for path in (pickled, foreign, missing):
        with pytest.raises(ModelUnreadable, match=path.name):
            real_esrgan.load(path, "cpu")

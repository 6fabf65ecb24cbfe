"""Upscaling with both back ends: the same pixels as spandrel and as the package realesrgan, in tiles and in float16."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from spandrel import ModelLoader

from tests.ml.runs import finish
from worker.demo.drawing.portrait import Person, draw, scenes
from worker.ml.errors import ModelUnreadable
from worker.ml.networks import real_esrgan
from worker.ml.networks.upscaler import Tile, Upscaler

Pixels = npt.NDArray[np.uint8]
SIZES = [(64, 48), (33, 90)]


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    (scene,) = scenes(1, 3)
    return np.asarray(draw(Person.example(), scene, (96, 128)))


@pytest.fixture(params=[2, 4])
def weights(request: pytest.FixtureRequest, tiny_models: Path) -> Path:
    return tiny_models / f"real-esrgan-x{request.param}" / "model.safetensors"


@pytest.fixture(params=real_esrgan.BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def upscaler(weights: Path, backend: str) -> Upscaler:
    return real_esrgan.load(weights, backend, device="cpu")


def plain_spandrel(weights: Path, pixels: Pixels) -> Pixels:
    network = ModelLoader().load_from_file(weights)
    enlarged = network(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)
    return (enlarged[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def plain_realesrgan(weights: Path, pixels: Pixels, folder: Path, tile: int = 0, tile_pad: int = 10) -> Pixels:
    """Upscale as realesrgan's README does, from a pickle in the official layout; without padding of the picture."""
    import worker.ml.networks.realesrgan_backend  # noqa: F401 - the package cannot be imported without it

    from basicsr.archs.rrdbnet_arch import RRDBNet  # isort: skip
    from realesrgan import RealESRGANer  # isort: skip

    scale = int(weights.parent.name[-1])
    state = load_file(weights)
    torch.save({"params_ema": state}, folder / "official.pth")
    network = RRDBNet(3, 3, scale=scale, num_feat=16, num_block=1, num_grow_ch=32)
    official = RealESRGANer(
        scale, str(folder / "official.pth"), model=network, tile=tile, tile_pad=tile_pad, pre_pad=0, device="cpu"
    )
    bgr, _ = official.enhance(pixels[..., ::-1].copy())
    return np.asarray(bgr[..., ::-1])


def enlarged(pixels: Pixels, scale: int, how: Image.Resampling) -> Pixels:
    height, width, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width * scale, height * scale), how))


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_equals_that_of_spandrel(weights: Path, portrait: Pixels, size: tuple[int, int]) -> None:
    pixels = portrait[: size[0], : size[1]]
    upscaler = real_esrgan.load(weights, device="cpu")
    ours = finish(upscaler.upscale(pixels))
    assert ours.shape == (size[0] * upscaler.scale, size[1] * upscaler.scale, 3)
    np.testing.assert_array_equal(ours, plain_spandrel(weights, pixels))


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_equals_that_of_realesrgan(
    weights: Path, portrait: Pixels, size: tuple[int, int], tmp_path: Path
) -> None:
    pixels = portrait[: size[0], : size[1]]
    upscaler = real_esrgan.load(weights, "realesrgan", device="cpu")
    np.testing.assert_array_equal(finish(upscaler.upscale(pixels)), plain_realesrgan(weights, pixels, tmp_path))


def test_the_tiles_are_those_of_realesrgan(weights: Path, portrait: Pixels, tmp_path: Path) -> None:
    """With the official overlap of 10 there are seams, and they are the same ones."""
    pixels = portrait[:127, :94]
    upscaler = real_esrgan.load(weights, "realesrgan", device="cpu")
    ours = finish(upscaler.upscale(pixels, tile=32, overlap=10))
    np.testing.assert_array_equal(ours, plain_realesrgan(weights, pixels, tmp_path, tile=32, tile_pad=10))


@pytest.mark.parametrize(("tile", "overlap"), [(512, 64), (32, 20)])
def test_both_back_ends_give_the_same_pixels(weights: Path, portrait: Pixels, tile: int, overlap: int) -> None:
    """For sides that are multiples of 4, as those of all pictures: to these spandrel pads for x2, realesrgan to 2."""
    one, other = (real_esrgan.load(weights, name, device="cpu") for name in real_esrgan.BACKENDS)
    assert (one.scale, one.anonymous_bytes) == (other.scale, other.anonymous_bytes)
    pixels = portrait[40:104, 20:76]
    np.testing.assert_array_equal(
        *(finish(upscaler.upscale(pixels, tile=tile, overlap=overlap)) for upscaler in (one, other))
    )


def test_the_tiny_network_draws_a_recognisable_picture_of_its_own(upscaler: Upscaler, portrait: Pixels) -> None:
    ours = finish(upscaler.upscale(portrait)).astype(float)
    smooth = enlarged(portrait, upscaler.scale, Image.Resampling.BICUBIC).astype(float)
    assert np.abs(ours - smooth).max() > 20
    assert np.abs(ours - smooth).mean() < 8


def assert_seamless(tiled: Pixels, whole: Pixels) -> None:
    """Check that both are equal, except that the last bit of a float32 sum rarely changes a rounding to 8 bits."""
    difference = np.abs(tiled.astype(int) - whole.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_tiles_leave_no_seams(upscaler: Upscaler, portrait: Pixels) -> None:
    """One block reaches 20 pixels, twice as many where 2x2 pixels are folded: the overlap covers that."""
    pixels = portrait[:127, :39]  # not multiples of the tile
    assert_seamless(finish(upscaler.upscale(pixels, tile=32, overlap=44)), finish(upscaler.upscale(pixels)))


def test_without_overlap_there_would_be_seams(upscaler: Upscaler, portrait: Pixels) -> None:
    pixels = portrait[:, :39]
    tiled, whole = finish(upscaler.upscale(pixels, tile=32, overlap=0)), finish(upscaler.upscale(pixels))
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() > 5


def test_the_default_tiles_are_seamless_for_a_large_picture(upscaler: Upscaler, portrait: Pixels) -> None:
    large = np.tile(portrait, (5, 1, 1))[:560, 40:56]
    assert_seamless(finish(upscaler.upscale(large)), finish(upscaler.upscale(large, tile=1024)))


def test_an_upscaling_reports_each_tile_and_can_be_left_after_any(upscaler: Upscaler, portrait: Pixels) -> None:
    upscaling = upscaler.upscale(portrait, tile=48)
    assert [next(upscaling), next(upscaling)] == [Tile(1, 6), Tile(2, 6)]
    upscaling.close()
    assert finish(upscaler.upscale(portrait)).shape == (128 * upscaler.scale, 96 * upscaler.scale, 3)


def write_overflowing(weights: Path, path: Path) -> None:
    """Write weights of the same picture whose inner numbers reach beyond 65,504, the largest of float16."""
    state = load_file(weights)
    for layer, exponent in {"conv_up1": 10, "conv_up2": 8, "conv_hr": -9, "conv_last": -9}.items():
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * 2.0**exponent
    save_file(state, path)


def test_float16_that_gives_numbers_that_are_not_finite_is_computed_again_in_float32(
    weights: Path, backend: str, portrait: Pixels, tmp_path: Path
) -> None:
    path, corner = tmp_path / "model.safetensors", portrait[40:56, 40:64]  # float16 is slow on most CPUs
    write_overflowing(weights, path)
    signal = torch.from_numpy(corner.copy()).permute(2, 0, 1)[None].half() / 255
    with torch.no_grad():
        assert not ModelLoader().load_from_file(path).half().model(signal).isfinite().all()

    upscaler = real_esrgan.load(path, backend, device="cpu", dtype=torch.float16)
    size = upscaler.anonymous_bytes
    ours = finish(upscaler.upscale(corner, tile=16)).astype(int)

    exact = finish(real_esrgan.load(weights, backend, device="cpu").upscale(corner, tile=16))
    assert np.abs(ours - exact).max() <= 1
    assert upscaler.anonymous_bytes == size, "the weights are in float16 again"


def test_only_real_upscalers_in_safetensors_are_loaded(backend: str, tmp_path: Path) -> None:
    pickled, foreign, missing, broken = (
        tmp_path / name for name in ("model.pth", "lora.safetensors", "gone.safetensors", "broken.safetensors")
    )
    pickled.write_bytes(pickle.dumps({}))
    save_file({"some.weight": torch.ones(2)}, foreign)
    broken.write_bytes(b"no header")
    for path in (pickled, foreign, missing, broken):
        with pytest.raises(ModelUnreadable, match=path.name):
            real_esrgan.load(path, backend, device="cpu")


def test_weights_that_are_not_finite_are_refused(weights: Path, backend: str, tmp_path: Path) -> None:
    state = load_file(weights)
    state["conv_hr.weight"][0, 0, 0, 0] = torch.inf
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnreadable, match=r"model\.safetensors .* not finite"):
        real_esrgan.load(tmp_path / "model.safetensors", backend, device="cpu")


def test_the_module_that_torchvision_removed_is_there_only_while_realesrgan_is_imported(
    weights: Path,
) -> None:
    real_esrgan.load(weights, "realesrgan", device="cpu")
    assert "basicsr.data.degradations" in sys.modules, "which imports it"
    assert "torchvision.transforms.functional_tensor" not in sys.modules

"""Objects cut out of pictures: by transparency, before a flat background, by a network; and pictures without any."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.ml.products import RED, SIDE, mug, pixels_of, uneven
from worker.ml.cutout import network as networks
from worker.ml.cutout.cutting import Cutout, cut_out, object_of
from worker.ml.cutout.errors import AllTransparent, BackgroundNotRemoved, NoForeground, TooNarrow, UnusablePicture
from worker.ml.cutout.network import BackgroundNetwork
from worker.ml.errors import ModelUnreadable, PackageMissing
from worker.ml.photos.opening import UnusablePhoto

DATA = Path(__file__).parent.parent / "data" / "cutout"
CLEAR = (0, 0, 0, 0)


@pytest.fixture(scope="module")
def network() -> BackgroundNetwork:
    return networks.load(DATA / "u2net.onnx")


def saved(folder: Path, picture: Image.Image, name: str = "picture.png") -> Path:
    picture.save(folder / name)
    return folder / name


def alpha_of(picture: Image.Image, network: BackgroundNetwork | None = None) -> np.ndarray:
    return cut_out(pixels_of(picture), network)[1][..., 3]


def opaque_share(alpha: np.ndarray) -> float:
    return float((alpha > 127).mean())


DRAWN = opaque_share(pixels_of(mug(CLEAR))[..., 3])


def test_a_transparent_picture_is_taken_as_it_is() -> None:
    picture = pixels_of(mug(CLEAR))
    means, cutout = cut_out(picture, None)
    assert means == "alpha"
    np.testing.assert_array_equal(cutout, picture)


@pytest.mark.parametrize("background", [(255, 255, 255), (250, 250, 250), (12, 90, 200)])
def test_a_flat_background_is_removed_without_a_network(background: tuple[int, int, int]) -> None:
    means, cutout = cut_out(pixels_of(mug(background)), None)
    assert means == "flat"
    assert opaque_share(cutout[..., 3]) == pytest.approx(DRAWN, rel=0.06)
    # No halo: the mug's own colours have little blue, the backgrounds much.
    assert np.quantile(cutout[cutout[..., 3] > 0][:, 2], 0.99) < 110


def test_noise_of_a_jpeg_and_dust_are_background(tmp_path: Path) -> None:
    picture = mug()
    ImageDraw.Draw(picture).ellipse((12, 12, 16, 16), fill="black")
    picture.save(tmp_path / "picture.jpg", quality=60)
    cutout = object_of(tmp_path / "picture.jpg", None)
    assert cutout.means == "flat"
    clean = object_of(saved(tmp_path, mug()), None)
    assert abs(len(cutout.picture) - len(clean.picture)) <= 4


def test_what_is_seen_through_a_handle_is_background_and_a_shaded_label_is_not() -> None:
    picture = mug()
    handle = (round(0.73 * SIDE), round(0.54 * SIDE))
    label = (round(0.45 * SIDE), round(0.68 * SIDE))
    ImageDraw.Draw(picture).rectangle(
        (label[0] - 20, label[1] - 10, label[0] + 20, label[1] + 10), fill=(244, 244, 244)
    )
    alpha = alpha_of(picture)
    assert alpha[handle[1], handle[0]] == 0
    assert alpha[label[1], label[0]] == 255


def test_an_object_that_is_cut_off_is_not_before_a_flat_background() -> None:
    picture = pixels_of(mug().crop((70, 0, SIDE, SIDE)))
    with pytest.raises(BackgroundNotRemoved):
        cut_out(picture, None)


def test_any_other_background_needs_the_network(network: BackgroundNetwork) -> None:
    picture = pixels_of(uneven(mug(CLEAR)))
    with pytest.raises(BackgroundNotRemoved, match="no model that removes it is installed"):
        cut_out(picture, None)
    means, cutout = cut_out(picture, network)
    assert means == "network"
    assert opaque_share(cutout[..., 3]) == pytest.approx(DRAWN, rel=0.15)  # the mug's inside is dark, too


@pytest.mark.parametrize(
    ("name", "side", "mean", "std"),
    [
        ("u2net", 320, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("isnet-general-use", 1024, (0.5, 0.5, 0.5), (1, 1, 1)),
    ],
)
def test_a_picture_is_prepared_as_rembg_does(
    tmp_path: Path, name: str, side: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    shutil.copyfile(DATA / "u2net.onnx", tmp_path / f"{name}.onnx")
    pixels = np.asarray(uneven(mug(CLEAR)))
    small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)) / 255
    answer = ((small / small.max() - mean) / std).max(axis=-1)  # what the tests' network does
    stretched = (answer - answer.min()) / (answer.max() - answer.min()) * 255
    wanted = np.asarray(Image.fromarray(stretched.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    mask = networks.load(tmp_path / f"{name}.onnx").mask(pixels)
    assert np.abs(mask.astype(int) - np.where(wanted < 13, 0, wanted)).max() <= 13  # rounding at the threshold
    assert np.mean(np.abs(mask.astype(int) - np.where(wanted < 13, 0, wanted)) > 1) < 0.01


def test_what_a_network_leaves_of_the_background_does_not_widen_the_crop(network: BackgroundNetwork) -> None:
    picture = mug((20, 20, 20))
    ImageDraw.Draw(picture).rectangle((0, 0, 30, 30), fill=(23, 23, 23))  # 4 of 255 in the network's answer
    mask = network.mask(np.asarray(picture))
    assert mask.max() > 200
    assert not mask[:30].any()


def test_the_object_is_in_the_middle_of_a_grey_square(tmp_path: Path) -> None:
    cutout = object_of(saved(tmp_path, mug(CLEAR)), None)
    assert cutout == Cutout("alpha", cutout.picture)
    side = len(cutout.picture)
    coloured = (cutout.picture != 127).any(axis=-1)
    rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    assert longer / side == pytest.approx(0.85, abs=0.01)
    for places in (rows, columns):
        assert abs(places[0] + places[-1] - (side - 1)) <= 2
    assert tuple(cutout.picture[side // 3, side // 3]) == RED


def narrow(width: int, height: int) -> Image.Image:
    picture = mug(CLEAR, 64)
    picture.paste(CLEAR, (0, 0, 64, 64))
    picture = picture.resize((400, 400))
    ImageDraw.Draw(picture).rectangle((20, 20, 20 + width, 20 + height), fill=RED)
    return picture


UNUSABLE = {
    "all transparent": (Image.new("RGBA", (90, 90), CLEAR), AllTransparent, "all of it is transparent"),
    "blank": (Image.new("RGB", (90, 90), "white"), NoForeground, "nothing stands out"),
    "a few pixels": (narrow(10, 9), NoForeground, "only 11 x 10 pixels, at least 16"),
    "a line": (narrow(300, 30), TooNarrow, "301 x 31 pixels: one side must be at most 8 times the other"),
    "upright line": (narrow(0, 300), TooNarrow, "1 x 301 pixels"),
    "a photograph": (uneven(mug(CLEAR)), BackgroundNotRemoved, "neither transparent nor of one colour"),
}


@pytest.mark.parametrize(("picture", "error", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_picture_without_an_object_is_refused_by_name(
    tmp_path: Path, picture: Image.Image, error: type[UnusablePicture], message: str
) -> None:
    with pytest.raises(error, match=message):
        object_of(saved(tmp_path, picture), None)


@pytest.mark.parametrize(
    ("content", "message"), [(b"<html>not found</html>", "is not a photo"), (b"", "is empty"), (b"\xff\xd8\xff", "is ")]
)
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "page.png").write_bytes(content)
    with pytest.raises(UnusablePhoto, match=rf"page\.png {message}"):
        object_of(tmp_path / "page.png", None)


def test_a_large_picture_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ml.cutout.cutting._LONGEST_PX", 100)
    whole, smaller = mug(CLEAR), object_of(saved(tmp_path, mug(CLEAR)), None)
    width = whole.getbbox()[2] - whole.getbbox()[0]  # type: ignore[index]
    assert len(smaller.picture) == pytest.approx(width / whole.width * 100 / 0.85, abs=5)


def test_other_files_are_not_networks(tmp_path: Path) -> None:
    shutil.copyfile(DATA / "u2net.onnx", tmp_path / "birefnet.onnx")
    with pytest.raises(ModelUnreadable, match=r"birefnet\.onnx is not a network .* use one of u2net\.onnx, "):
        networks.load(tmp_path / "birefnet.onnx")
    with pytest.raises(ModelUnreadable, match=r"u2net\.onnx not found"):
        networks.load(tmp_path / "u2net.onnx")
    (tmp_path / "u2net.onnx").write_text("<html>")
    with pytest.raises(ModelUnreadable, match=r"u2net\.onnx cannot be read: a web page"):
        networks.load(tmp_path / "u2net.onnx")


def test_without_the_extra_a_network_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PackageMissing, match="the package onnxruntime is not installed: it comes with the extra mesh"):
        networks.load(DATA / "u2net.onnx")

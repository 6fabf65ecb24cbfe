from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from tests.ml.runs import finish
from worker.demo.portrait import Person, draw, scenes
from worker.ml import photos
from worker.ml.base_models import Base
from worker.ml.batches import Photo
from worker.ml.errors import BadInput
from worker.ml.train_lora import LoraConfig, train

ORIENTATION = 0x0112


def half_red_half_blue() -> Image.Image:
    """60 x 40, red above blue."""
    picture = Image.new("RGB", (60, 40), "red")
    picture.paste("blue", (0, 20, 60, 40))
    return picture


def colour(photo: Image.Image, x: float, y: float) -> str:
    red, _, blue = photo.getpixel((int(x * photo.width), int(y * photo.height)))
    return "red" if red > blue else "blue"


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "heic"])
def test_every_kind_of_photo_is_read(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"photo.{extension}"
    half_red_half_blue().save(path, quality=95)
    photo = photos.open_photo(path)
    assert (photo.mode, photo.size) == ("RGB", (60, 40))
    assert (colour(photo, 0.5, 0.2), colour(photo, 0.5, 0.8)) == ("red", "blue")


def test_a_phone_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: show it a quarter clockwise
    half_red_half_blue().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    photo = photos.open_photo(path)
    assert photo.size == (60, 40)
    assert (colour(photo, 0.5, 0.2), colour(photo, 0.5, 0.8)) == ("red", "blue")


def test_a_heic_held_sideways_is_turned_once(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = half_red_half_blue().transpose(Image.Transpose.ROTATE_90)
    pillow_heif.from_pillow(turned).save(path, exif=exif.tobytes())
    photo = photos.open_photo(path)
    assert photo.size == (60, 40)
    assert (colour(photo, 0.5, 0.2), colour(photo, 0.5, 0.8)) == ("red", "blue")


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    path = tmp_path / "cut-out.png"
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(path)
    assert photos.open_photo(path).getpixel((4, 4)) == (255, 255, 255)


def test_another_colour_space_is_converted(tmp_path: Path) -> None:
    """The same numbers are other colours in another space; here a profile with red and blue exchanged."""
    path = tmp_path / "lab.tiff.png"
    picture = Image.new("RGB", (8, 8), (180, 90, 30))
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(int.from_bytes(profile[128:132], "big")):
        at = 132 + 12 * i
        profile[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(
            bytes(profile[at : at + 4]), profile[at : at + 4]
        )
    picture.save(path, icc_profile=bytes(profile))
    np.testing.assert_allclose(photos.open_photo(path).getpixel((4, 4)), (30, 90, 180), atol=2)


def test_a_damaged_profile_does_not_stop_a_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8), "red").save(path, icc_profile=b"no profile at all")
    assert photos.open_photo(path).getpixel((4, 4)) == (255, 0, 0)


def _truncated(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


BROKEN = {
    "truncated.jpg": _truncated("JPEG"),
    "truncated.png": _truncated("PNG"),
    "truncated.webp": _truncated("WEBP"),
    "truncated.heic": _truncated("HEIF"),
    "words.jpg": b"this is no picture",
    "empty.jpg": b"",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_photo_is_refused_by_its_name(base: Base, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(BadInput, match=name) as refused:
        photos.open_photo(path)
    assert str(tmp_path) not in str(refused.value)
    with pytest.raises(BadInput, match=name):
        finish(train(base, [Photo(path, "a photo")], LoraConfig(steps=1), workdir=tmp_path, metadata={}))


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^gone\.jpg "):
        photos.open_photo(tmp_path / "gone.jpg")


def test_a_picture_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(BadInput, match=r"bomb\.png"):
        photos.open_photo(path)


@pytest.mark.parametrize("size", [(3024, 4032), (4032, 3024), (1000, 1000), (1080, 1920), (2000, 1000)])
@pytest.mark.parametrize("resolution", [512, 1024])
def test_photos_stay_nearly_whole_at_about_the_asked_resolution(
    tmp_path: Path, size: tuple[int, int], resolution: int
) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", size).save(path)
    height, width, _ = photos.read_fitted(path, photos.buckets(resolution, 16)).shape
    assert height % 16 == width % 16 == 0
    assert height * width == pytest.approx(resolution**2, rel=0.06)
    assert abs(math.log(height / width * size[0] / size[1])) < 0.04  # at most four percent are cut


@pytest.mark.parametrize("extension", ["jpg", "png", "heic"])
def test_a_fitted_photo_is_the_photo(tmp_path: Path, extension: str) -> None:
    """Upright, in sRGB, and as sharp as if it had been decoded whole."""
    (scene,) = scenes(1, 5)
    picture = draw(Person.example(), scene, (600, 800))
    path = tmp_path / f"photo.{extension}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    if extension == "heic":  # as a phone does: HEIF turns by a box of its own, and its EXIF says the same
        pillow_heif.from_pillow(turned).save(path, quality=95, exif=exif.tobytes())
    else:
        turned.save(path, quality=95, exif=exif)
    fitted = photos.read_fitted(path, [(96, 96), (128, 96), (96, 128)])
    whole = np.asarray(photos.open_photo(path).resize((96, 128), Image.Resampling.LANCZOS))
    assert fitted.shape == (128, 96, 3)
    assert np.abs(fitted.astype(float) - whole).mean() < 2


def test_a_transparent_or_grey_photo_is_fitted_too(tmp_path: Path) -> None:
    clear, grey = tmp_path / "clear.png", tmp_path / "grey.png"
    Image.new("P", (64, 64)).save(clear, transparency=0)
    Image.new("L", (64, 64), 99).save(grey)
    assert photos.read_fitted(clear, [(32, 32)])[16, 16].tolist() == [255, 255, 255]
    assert photos.read_fitted(grey, [(32, 32)])[16, 16].tolist() == [99, 99, 99]

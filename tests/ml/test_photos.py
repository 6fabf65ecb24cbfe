"""Photos as phones, scanners and print shops write them, and files that are not photos."""

from __future__ import annotations

import io
import math
import re
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.ml.families import only_flux
from tests.ml.runs import finish, lora_config
from worker.demo.drawing.portrait import Person, draw, scenes
from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.photos import fitting as photos
from worker.ml.photos.opening import UnusablePhoto
from worker.ml.photos.whole import read_whole
from worker.ml.protocol import Framing
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import PhotosEnlarged, PhotosSkipped, Run, train

ORIENTATION = 0x0112
UNDO_ORIENTATION = {  # what undoes each orientation of EXIF 2.32 (table in 4.6.4, tag Orientation)
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
RED, GREEN, BLUE = (254, 0, 0), (0, 128, 0), (0, 0, 254)


def corners() -> Image.Image:
    """120 x 80: red above green at the left, blue at the right. Every rotation or reflection changes it."""
    picture = Image.new("RGB", (120, 80), RED)
    picture.paste(GREEN, (0, 40, 60, 80))
    picture.paste(BLUE, (60, 0, 120, 80))
    return picture


def read(path: Path) -> np.ndarray:
    """Read the photo at 120 x 80 if it is landscape, or at 80 x 120."""
    (pixels,) = photos.read_fitted(path, [[(80, 120), (120, 80)]]).pixels
    return pixels.astype(int)


def assert_upright(path: Path) -> None:
    pixels = read(path)
    assert pixels.shape == (80, 120, 3)
    for (y, x), colour in {(20, 30): RED, (60, 30): GREEN, (20, 90): BLUE, (60, 90): BLUE}.items():
        np.testing.assert_allclose(pixels[y, x], colour, atol=12)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[ORIENTATION] = orientation
    return made


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.heic", "a.tiff", "a.gif", "a.mpo", "a.JPG.exe"])
def test_every_format_is_read_whatever_the_file_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    corners().save(path, "JPEG" if name.endswith("exe") else None, quality=95)
    assert_upright(path)
    renamed = path.rename(tmp_path / "holiday.png")
    assert_upright(renamed)


@pytest.mark.parametrize("orientation", UNDO_ORIENTATION)
def test_every_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.jpg"
    turn = UNDO_ORIENTATION[orientation]
    taken = corners() if turn is None else corners().transpose(turn)
    taken.save(path, quality=95, exif=exif(orientation))
    assert_upright(path)


@pytest.mark.parametrize("extension", ["png", "webp", "tiff", "heic"])
def test_other_formats_are_turned_once(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"photo.{extension}"
    turned = corners().transpose(Image.Transpose.ROTATE_90)
    if extension == "heic":  # as a phone does: HEIF turns by a box of its own, and its EXIF says the same
        pillow_heif.from_pillow(turned).save(path, quality=95, exif=exif(6).tobytes())
    else:
        turned.save(path, quality=95, exif=exif(6))
    assert_upright(path)


def test_a_photo_with_an_exif_tag_of_the_wrong_type_is_turned_upright(tmp_path: Path) -> None:
    """A resolution in letters beside the orientation was a TypeError, which failed the whole training."""
    path = tmp_path / "odd.jpg"
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHI4s", 0x011A, 2, 4, b"odd\0")
    tags = b"MM\0*" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 0)
    corners().transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=b"Exif\0\0" + tags)
    with Image.open(path) as file, pytest.raises(TypeError):
        ImageOps.exif_transpose(file)
    assert_upright(path)


def test_a_photo_with_unreadable_exif_is_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    corners().save(path, quality=95, exif=b"Exif\0\0no tags at all")
    assert_upright(path)


# -- colours


def a_print_profile() -> bytes:
    """A CMYK profile in which no ink is black and full cyan is light grey, which a reader could not guess.

    ICC.1:2022, 7.2 (header) and 10.10 (lut8Type): 16 corners of the four inks, here to CIELAB.
    """
    table = b"".join(bytes([220 if ink & 8 else 0, 128, 128]) for ink in range(16))  # cyan is the slowest of the four
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"A2B0": lut, b"desc": text, b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)}
    at, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        tag += bytes(-len(tag) % 4)
        index += name + struct.pack(">II", at + len(body), len(tag))
        body += tag
    size = at + len(body)
    header = struct.pack(">I", size) + bytes(4) + struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


def test_a_cmyk_photo_is_converted_with_its_profile(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    picture = Image.new("CMYK", (120, 80), (255, 0, 0, 0))
    picture.save(path, quality=100)
    assert read(path)[40, 60].tolist() == [0, 255, 255], "without a profile, the usual guess"
    picture.save(path, quality=100, icc_profile=a_print_profile())
    red, green, blue = read(path)[40, 60]
    assert max(red, green, blue) - min(red, green, blue) <= 6
    assert 200 <= green <= 230  # L* = 220 / 255 * 100 = 86


def test_another_colour_space_is_converted_with_and_without_transparency(tmp_path: Path) -> None:
    """The same numbers are other colours in another space, here in a profile with red and blue exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(int.from_bytes(profile[128:132], "big")):
        at = 132 + 12 * i
        profile[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(
            bytes(profile[at : at + 4]), profile[at : at + 4]
        )
    for mode in ("RGB", "RGBA"):
        path = tmp_path / f"{mode}.png"
        Image.new("RGB", (120, 80), (180, 90, 30)).convert(mode).save(path, icc_profile=bytes(profile))
        np.testing.assert_allclose(read(path)[40, 60], (30, 90, 180), atol=2)


def test_a_photo_with_a_damaged_or_unsuitable_profile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    corners().save(path, icc_profile=b"no profile at all")
    assert_upright(path)
    Image.new("L", (120, 80), 99).save(path, icc_profile=a_print_profile())
    assert read(path)[40, 60].tolist() == [99, 99, 99]


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_sixteen_bits_a_channel_keep_their_tones(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scan.{extension}"
    grey = np.full((80, 120), 99 * 256, dtype=np.uint16)
    grey[:40] = 180 * 256
    Image.fromarray(grey).save(path)
    pixels = read(path)
    assert (pixels[20, 60].tolist(), pixels[60, 60].tolist()) == ([180] * 3, [99] * 3)


def grey_tiff(bits: int, row: bytes, *, photometric: int) -> bytes:
    """120 x 80 in one strip, as TIFF 6.0 describes greyscale (section 4)."""
    tags = {256: 120, 257: 80, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 80, 279: len(row) * 80}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    strip = row * 80
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize(
    ("bits", "row", "photometric", "grey"),
    [
        (16, struct.pack("<H", 180 << 8) * 120, 1, 180),
        (16, struct.pack("<H", 180 << 8) * 120, 0, 75),
        (12, bytes([0xB4, 0x0B, 0x40]) * 60, 1, 180),  # two pixels of 0xB40
    ],
    ids=["black is zero", "white is zero", "12 bits"],
)
def test_a_grey_scan_is_read_with_the_white_of_its_tags(
    tmp_path: Path, bits: int, row: bytes, photometric: int, grey: int
) -> None:
    path = tmp_path / "scan.tiff"
    path.write_bytes(grey_tiff(bits, row, photometric=photometric))
    assert read(path)[40, 60].tolist() == [grey] * 3


def test_transparent_parts_are_white_in_every_mode_and_black_where_asked(tmp_path: Path) -> None:
    """A cut-out whose left half is there and whose right half is not."""
    shape = Image.new("L", (120, 80))
    shape.paste(255, (0, 0, 60, 80))
    colour, grey = Image.new("RGB", (120, 80), (0, 128, 0)), Image.new("L", (120, 80), 99)
    there = {"RGBA": (0, 128, 0), "LA": (99, 99, 99), "P": (0, 128, 0), "L": (99, 99, 99)}
    for mode, inked in there.items():
        path, options = tmp_path / f"{mode}.png", {}
        if mode == "P":
            cut = Image.new("P", (120, 80), 1)
            cut.putpalette([0, 0, 0, 0, 128, 0])
            cut.paste(0, (60, 0, 120, 80))
            options = {"transparency": bytes([0, 255])}
        elif mode == "L":
            cut = grey.copy()
            cut.paste(7, (60, 0, 120, 80))
            options = {"transparency": 7}
        else:
            cut = (colour if mode == "RGBA" else grey).convert(mode)
            cut.putalpha(shape)
        cut.save(path, **options)
        pixels = read(path)
        assert (pixels[40, 30].tolist(), pixels[40, 90].tolist()) == (list(inked), [255] * 3), mode
        for background, value in (("white", 255), ("black", 0)):
            whole = read_whole(path, background)
            assert (whole[40, 30].tolist(), whole[40, 90].tolist()) == (list(inked), [value] * 3), mode


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation_is_read(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"moving.{extension}"
    corners().save(path, save_all=True, append_images=[Image.new("RGB", (120, 80), "black")], lossless=True)
    assert_upright(path)


# -- size


@contextmanager
def no_more_memory_than(mebibytes: int) -> Iterator[None]:
    """Raise MemoryError if the block allocates more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_photo_of_two_hundred_megapixels_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    Image.new("L", (16_320, 12_240), 99).save(path)
    with no_more_memory_than(64):
        assert read(path).shape == (80, 120, 3)


@pytest.mark.parametrize("name", ["bomb.png", "bomb.gif", "bomb.tiff"])
def test_a_picture_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.new("1", (20_000, 20_000)).save(path)
    with no_more_memory_than(64), pytest.raises(UnusablePhoto, match=rf"^{name} is too large \(400 megapixels"):
        read(path)


@pytest.mark.parametrize("size", [(3024, 4032), (4032, 3024), (1000, 1000), (1080, 1920), (2000, 1000)])
@pytest.mark.parametrize("resolution", [512, 1024])
def test_photos_stay_nearly_whole_at_about_the_asked_resolution(
    tmp_path: Path, size: tuple[int, int], resolution: int
) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", size).save(path)
    (pixels,) = photos.read_fitted(path, [photos.buckets(resolution, 16)]).pixels
    height, width, _ = pixels.shape
    assert height % 16 == width % 16 == 0
    assert height * width == pytest.approx(resolution**2, rel=0.06)
    assert abs(math.log(height / width * size[0] / size[1])) < 0.04  # at most four percent are cut


@pytest.mark.parametrize("extension", ["jpg", "png", "heic"])
def test_a_fitted_photo_is_as_sharp_as_if_it_had_been_decoded_whole(tmp_path: Path, extension: str) -> None:
    (scene,) = scenes(1, 5)
    path = tmp_path / f"photo.{extension}"
    draw(Person.example(), scene, (600, 800)).transpose(Image.Transpose.ROTATE_90).save(
        path, quality=95, exif=exif(6).tobytes()
    )
    (fitted,) = photos.read_fitted(path, [[(96, 96), (128, 96), (96, 128)]]).pixels
    with Image.open(path) as file:
        whole = np.asarray(ImageOps.exif_transpose(file).resize((96, 128), Image.Resampling.LANCZOS))
    assert fitted.shape == (128, 96, 3)
    assert np.abs(fitted.astype(float) - whole).mean() < 2


# -- resolutions


def square_or_long(resolution: int) -> list[tuple[int, int]]:
    return [(resolution, resolution), (resolution // 2, 2 * resolution)]


LADDER = [square_or_long(resolution) for resolution in (128, 192, 256)]


@pytest.mark.parametrize(
    ("width", "height", "reached"),
    [
        (256, 256, [(128, 128), (192, 192), (256, 256)]),
        (2600, 2000, [(128, 128), (192, 192), (256, 256)]),  # a JPEG of this size is decoded at a fraction of it
        (255, 300, [(128, 128), (192, 192)]),
        (384, 96, [(64, 256), (96, 384)]),
        (383, 96, [(64, 256)]),
        (128, 128, [(128, 128)]),
    ],
)
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_photo_is_read_at_every_resolution_that_it_reaches_without_being_enlarged(
    tmp_path: Path, width: int, height: int, reached: list[tuple[int, int]], extension: str
) -> None:
    path = tmp_path / f"photo.{extension}"
    Image.new("RGB", (width, height)).save(path)
    fitted = photos.read_fitted(path, LADDER)
    assert [pixels.shape[:2] for pixels in fitted.pixels] == reached
    assert not fitted.enlarged


def test_what_a_photo_reaches_is_judged_upright(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (96, 384)).save(path, exif=exif(6))
    assert [pixels.shape[:2] for pixels in photos.read_fitted(path, LADDER).pixels] == [(64, 256), (96, 384)]


@pytest.mark.parametrize(("width", "height"), [(127, 128), (128, 100), (64, 64)])
def test_a_photo_below_the_lowest_resolution_is_enlarged_to_it(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (width, height)).save(path)
    fitted = photos.read_fitted(path, LADDER)
    assert [pixels.shape[:2] for pixels in fitted.pixels] == [(128, 128)]
    assert fitted.enlarged


def test_a_photo_of_less_than_half_the_lowest_resolution_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (80, 70)).save(path)
    assert photos.read_fitted(path, [square_or_long(140)]).enlarged
    with pytest.raises(UnusablePhoto, match=r"^photo\.png is too small \(80 x 70, at least 71 x 71 pixels\)$"):
        photos.read_fitted(path, [square_or_long(141)])


# -- what cannot be used


def truncated(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


def encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


NOT_A_PHOTO = "not a photo (JPEG, PNG, HEIC, AVIF, WebP, TIFF, GIF, BMP or JPEG 2000)"
UNUSABLE = {
    "cut.jpg": (truncated("JPEG"), "damaged or cut off"),
    "cut.png": (truncated("PNG"), "damaged or cut off"),
    "cut.webp": (truncated("WEBP"), "damaged or cut off"),
    "cut.heic": (truncated("HEIF"), "damaged or cut off"),
    "cut.tiff": (truncated("TIFF"), "damaged or cut off"),
    "empty.jpg": (b"", "empty"),
    "words.jpg": (b"this is no picture", NOT_A_PHOTO),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NOT_A_PHOTO),
    "page.eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        NOT_A_PHOTO,
    ),
    "icon.png": (
        encoded(Image.new("RGB", (400, 48)), "PNG"),
        "too small (400 x 48, at least 64 pixels a side)",
    ),
    "depth.tiff": (
        encoded(Image.new("F", (120, 80)), "TIFF"),
        "not a photo: 32 bits a channel do not define white",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_photo_is_named_with_the_reason_and_never_with_its_folder(tmp_path: Path, name: str) -> None:
    content, reason = UNUSABLE[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnusablePhoto, match=rf"^{re.escape(f'{name} is {reason}')}$") as refused:
        read(path)
    assert (refused.value.path, refused.value.reason) == (path, reason)
    assert isinstance(refused.value, BadInput)


def test_a_file_that_does_not_exist_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnusablePhoto, match=r"^gone\.jpg is missing$"):
        read(tmp_path / "gone.jpg")


@only_flux
def test_a_training_continues_without_unusable_photos_and_steps_count_the_rest(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    mixed = [Photo(tmp_path / "gone.jpg", "a photo"), *photos[:2]]
    for name, (content, _) in UNUSABLE.items():
        (tmp_path / name).write_bytes(content)
        mixed.append(Photo(tmp_path / name, "a photo"))
    alone = finish(train(base, photos[:2], SHORT, Run(tmp_path)))
    events: list[object] = []
    among = finish(train(base, mixed, SHORT, Run(tmp_path, min_photos=2)), events)
    assert (among.photos, among.sha256) == (2, alone.sha256)
    (skipped,) = (event for event in events if isinstance(event, PhotosSkipped))
    assert {photo.path.name: photo.reason for photo in skipped.photos} == {
        "gone.jpg": "missing",
        **{name: reason for name, (_, reason) in UNUSABLE.items()},
    }
    assert skipped.summary.startswith("12 of 14 photos cannot be used: gone.jpg is missing, cut.jpg is damaged")
    assert skipped.summary.endswith(", 7 more")


@only_flux
def test_a_training_names_the_photos_that_it_enlarged(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    small = [Photo(tmp_path / f"{name}.png", "a photo") for name in ("a", "b")]
    for photo in small:
        Image.new("RGB", (100, 90)).save(photo.path)
    config = replace(SHORT, resolutions=(128, 160))
    events: list[object] = []
    trained = finish(train(base, [*photos[:2], *small], config, Run(tmp_path)), events)
    (enlarged,) = (event for event in events if isinstance(event, PhotosEnlarged))
    assert enlarged.photos == tuple(photo.path for photo in small)
    assert enlarged.summary == "2 of 4 photos were too small for 128 x 128 and enlarged: a.png, b.png"
    assert trained.photos == 4


SHORT = lora_config(steps=2, rank=2, resolution=32)


def test_a_training_with_too_few_photos_names_the_unusable_ones(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    given = [*photos[:2], Photo(tmp_path / "gone.jpg", "a photo")]
    with pytest.raises(BadInput) as refused:
        finish(train(base, given, SHORT, Run(tmp_path, min_photos=3)))
    assert str(refused.value) == ("training needs at least 3 usable photos, but there are 2: gone.jpg is missing")


@pytest.mark.parametrize(
    ("size", "orientation", "trained", "original", "crop"),
    [
        ((400, 300), 1, (96, 128), (300, 400), (0, 0)),
        ((400, 300), 6, (128, 96), (400, 300), (0, 0)),  # a phone held upright
        ((400, 200), 1, (96, 128), (200, 400), (0, 32)),  # resized to 96 x 192
        ((200, 400), 1, (96, 128), (400, 200), (80, 0)),  # resized to 256 x 128
        ((4000, 3000), 6, (128, 96), (4000, 3000), (0, 0)),  # decoded at a fraction of its size
    ],
)
def test_a_photo_says_how_it_was_framed(
    tmp_path: Path,
    size: tuple[int, int],
    orientation: int,
    trained: tuple[int, int],
    original: tuple[int, int],
    crop: tuple[int, int],
) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", size).save(path, exif=exif(orientation))
    assert photos.read_fitted(path, [[trained]]).framings == (Framing(original, crop, trained),)

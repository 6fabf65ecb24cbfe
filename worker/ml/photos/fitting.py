"""Photos turned upright, converted to sRGB and fitted to aspect buckets, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from diffusers.training_utils import generate_aspect_ratio_buckets
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from worker.ml.photos.colours import colours_of, to_srgb
from worker.ml.photos.containers import png_bits
from worker.ml.photos.files import turn_upright
from worker.ml.photos.opening import UnusablePhoto, load, open_photo
from worker.ml.protocol import Framing, Pixels

_MIN_SIDE_PX = 64  # a person cannot be recognised on less
_MAX_ENLARGEMENT = 2  # beyond that, three of four pixels are interpolated
_MAX_RATIO = 4  # of the long side to the short: of a longer photo, over half is cut away
_MAX_PIXELS = 2**27  # half a GiB unpacked, and the same again while colours are converted
_MAX_JPEG_PIXELS = (
    2**28
)  # decoded at a fraction of its size, but a progressive JPEG keeps all of its coefficients in memory


def truncate_list(photos: Sequence[object]) -> str:
    """Return the first five of these in words, and how many more there are."""
    named = [str(photo) for photo in photos[:5]]
    more = [f"{len(photos) - len(named)} more"] if len(photos) > len(named) else []
    return ", ".join([*named, *more])


Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class FittedPhoto:
    """A photo at the sizes that it is trained at."""

    pixels: tuple[npt.NDArray[np.uint8], ...]  # (H, W, 3) each, from the lowest rung up
    framings: tuple[Framing, ...]  # of each
    enlarged: bool  # it does not reach the lowest rung


def read_fitted(path: Path, ladder: Sequence[Sequence[Size]]) -> FittedPhoto:
    """Read a photo at every rung that it reaches, or enlarge it to the lowest.

    `ladder` has the sizes of each rung, from the lowest up. Of a rung, the photo takes the size of the nearest shape,
    so that at most a thin margin is cut. It reaches the rung if it is at least as high and as wide as that size:
    nothing but the lowest rung enlarges a photo, and that at most twofold.

    Of an animation the first frame is read; transparent parts become white. A JPEG is decoded no larger than needed,
    and colours are converted last: four times faster for a phone's 12 megapixels. Raises UnusablePhoto.
    """
    with open_photo(path) as file:
        _check_size(path, file)
        full = file.size
        enough = 2 * max(side for sizes in ladder for size in sizes for side in size)
        opened = load(path, file, (enough, enough))  # no side becomes smaller than that: it still reaches every rung
        colours = colours_of(path, opened)
        turn_upright(opened)
        photo = _convertible(path, opened)
        reached = _reached(path, photo, ladder)
        fitted = [ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS) for height, width in reached]
        pixels = tuple(np.asarray(to_srgb(_over("white", one), colours), dtype=np.uint8) for one in fitted)
        turned = (full[0] < full[1]) != (photo.width < photo.height)
        original = (full[0], full[1]) if turned else (full[1], full[0])
        framings = tuple(_framing(original, size) for size in reached)
        return FittedPhoto(pixels, framings, enlarged=not _reaches(photo, reached[0]))


def read_whole(path: Path, background: str) -> Pixels:
    """Read a picture at its full size, as (H, W, 3) uint8: upright, in sRGB, transparent parts of this colour's name.

    Of an animation the first frame is read. Raises UnusablePhoto.
    """
    with open_photo(path) as file:
        _check_pixels(path, file)
        opened = load(path, file, file.size)
        colours = colours_of(path, opened)
        turn_upright(opened)
        return np.asarray(to_srgb(_over(background, _convertible(path, opened)), colours), dtype=np.uint8)


def _framing(original: Size, size: Size) -> Framing:
    """Return how `ImageOps.fit` cuts a photo: resized so that it covers the size, then cut in the middle."""
    factor = max(wanted / side for wanted, side in zip(size, original, strict=True))
    above, left = (round((side * factor - wanted) / 2) for side, wanted in zip(original, size, strict=True))
    return Framing(original, (above, left), size)


def _reached(path: Path, photo: Image.Image, ladder: Sequence[Sequence[Size]]) -> list[Size]:
    """Return the photo's sizes at the rungs that it reaches, or at the lowest. Raises UnusablePhoto."""
    ratio = photo.height / photo.width
    wanted = [min(sizes, key=lambda size: abs(math.log(size[0] / size[1] / ratio))) for sizes in ladder]
    height, width = (math.ceil(side / _MAX_ENLARGEMENT) for side in wanted[0])
    if not _reaches(photo, (height, width)):
        raise UnusablePhoto(path, f"too small ({photo.width} x {photo.height}, at least {width} x {height} pixels)")
    return list(takewhile(lambda size: _reaches(photo, size), wanted)) or wanted[:1]


def _reaches(photo: Image.Image, size: Size) -> bool:
    return photo.height >= size[0] and photo.width >= size[1]


def buckets(resolution: int, step: int) -> list[Size]:
    """Return sizes of about resolution² pixels, each side a multiple of `step`, from 1:2 to 2:1."""
    return [(int(h), int(w)) for h, w in generate_aspect_ratio_buckets(resolution, divisibility=step)]


def _check_pixels(path: Path, file: Image.Image) -> None:
    """Check how many pixels the header announces, before they are decoded. Raises UnusablePhoto."""
    jpeg = file.format in ("JPEG", "MPO")  # MPO: a JPEG with a second picture, as many phones write
    pixels, most = file.width * file.height, _MAX_JPEG_PIXELS if jpeg else _MAX_PIXELS
    if pixels > most:
        raise UnusablePhoto(path, f"too large ({pixels / 1e6:.0f} megapixels, at most {most / 1e6:.0f})")


def _check_size(path: Path, file: Image.Image) -> None:
    """Check the size in the header, before anything is decoded. Raises UnusablePhoto."""
    _check_pixels(path, file)
    if min(file.size) < _MIN_SIDE_PX:
        raise UnusablePhoto(path, f"too small ({file.width} x {file.height}, at least {_MIN_SIDE_PX} pixels a side)")
    if max(file.size) > _MAX_RATIO * min(file.size):
        raise UnusablePhoto(
            path,
            f"too long ({file.width} x {file.height}): one side is at most {_MAX_RATIO} times the other; "
            "crop it to the person",
        )


def _convertible(path: Path, photo: Image.Image) -> Image.Image:
    """Return the photo in a mode that can be resized and converted: L, RGB, CMYK, or RGBA if parts are transparent."""
    if photo.mode.startswith("I;16"):
        return _eight_bits(photo)
    if photo.mode in ("I", "F"):
        raise UnusablePhoto(path, "not a photo: 32 bits a channel do not define white")
    if photo.has_transparency_data:
        return _with_alpha(path, photo)
    return photo if photo.mode in ("L", "RGB", "CMYK") else photo.convert("RGB")


def _eight_bits(photo: Image.Image) -> Image.Image:
    """Convert 16-bit grey to L. Pillow's own conversion would turn all but the darkest 1/256 white.

    Pillow also ignores two properties of a TIFF: 12 bits a pixel, and that zero is white.
    """
    tags = photo.tag_v2 if isinstance(photo, TiffImageFile) else {}
    (bits,) = tags.get(BITSPERSAMPLE, (16,))
    numbers = np.asarray(photo)
    grey = (numbers >> (bits - 8)).astype(np.uint8)
    opaque = numbers != photo.info.get("transparency", -1)
    if not opaque.all():
        return Image.merge("LA", [Image.fromarray(grey), Image.fromarray((opaque * 255).astype(np.uint8))]).convert(
            "RGBA"
        )
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 else grey)


def _with_alpha(path: Path, photo: Image.Image) -> Image.Image:
    """Convert to RGBA. Pillow makes 8 bits of every channel of a PNG, but not of its transparent colour."""
    colour = photo.info.get("transparency")
    if photo.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
        photo.info["transparency"] = tuple(value >> 8 for value in colour)
    elif photo.mode == "L" and photo.format == "PNG" and isinstance(colour, int):
        photo.info["transparency"] = colour * 255 // (2 ** png_bits(path) - 1)
    return photo.convert("RGBA")


def _over(background: str, photo: Image.Image) -> Image.Image:
    if photo.mode != "RGBA":
        return photo
    return Image.alpha_composite(Image.new("RGBA", photo.size, background), photo).convert("RGB")

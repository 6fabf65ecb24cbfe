"""Pictures at their full size: upright and in sRGB, on white or with their transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from worker.ml.photos.colours import colours_of, to_srgb
from worker.ml.photos.containers import png_bits
from worker.ml.photos.files import turn_upright
from worker.ml.photos.opening import UnusablePhoto, load, open_photo
from worker.ml.protocol import Pixels

_MAX_PIXELS = 2**27  # half a GiB unpacked, and the same again while colours are converted
_MAX_JPEG_PIXELS = (
    2**28
)  # decoded at a fraction of its size, but a progressive JPEG keeps all of its coefficients in memory


def read_whole(path: Path) -> Pixels:
    """Read a picture at its full size, as (H, W, 3) uint8: upright, in sRGB, transparent parts white.

    Of an animation the first frame is read. Raises UnusablePhoto.
    """
    with open_photo(path) as file:
        check_pixels(path, file)
        opened = load(path, file, file.size)
        colours = colours_of(path, opened)
        turn_upright(opened)
        return np.asarray(to_srgb(on_white(convertible(path, opened)), colours), dtype=np.uint8)


def read_with_alpha(path: Path, longest_px: int) -> Pixels:
    """Read a picture as (H, W, 4) uint8: upright, colours in sRGB, made smaller if a side is longer than `longest_px`.

    Of an animation the first frame is read. Raises UnusablePhoto.
    """
    with open_photo(path) as file:
        check_pixels(path, file)
        opened = load(path, file, (longest_px, longest_px))
        colours = colours_of(path, opened)
        turn_upright(opened)
        picture = convertible(path, opened)
        picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
        transparent = picture.mode == "RGBA"
        alpha = picture.getchannel("A") if transparent else Image.new("L", picture.size, 255)
        coloured = to_srgb(picture.convert("RGB") if transparent else picture, colours)
        return np.dstack([np.asarray(coloured), np.asarray(alpha)])


def check_pixels(path: Path, file: Image.Image) -> None:
    """Check how many pixels the header announces, before they are decoded. Raises UnusablePhoto."""
    jpeg = file.format in ("JPEG", "MPO")  # MPO: a JPEG with a second picture, as many phones write
    pixels, most = file.width * file.height, _MAX_JPEG_PIXELS if jpeg else _MAX_PIXELS
    if pixels > most:
        raise UnusablePhoto(path, f"too large ({pixels / 1e6:.0f} megapixels, at most {most / 1e6:.0f})")


def convertible(path: Path, photo: Image.Image) -> Image.Image:
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


def on_white(photo: Image.Image) -> Image.Image:
    if photo.mode != "RGBA":
        return photo
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")

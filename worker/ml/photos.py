"""Photos as a phone takes them, read whole and upright, and fitted to aspect buckets."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from diffusers.training_utils import generate_aspect_ratio_buckets
from PIL import Image, ImageCms, ImageOps
from pillow_heif import register_heif_opener

from worker.ml.errors import BadInput

register_heif_opener()

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "HEIF")  # MPO: JPEG with a second picture, as some phones write

_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow and libheif raise for files that are damaged, or no pictures, or absurdly large."""


def open_photo(path: Path) -> Image.Image:
    """The photo in RGB (sRGB), turned the way it was held.

    Raises BadInput, with the file's name and never its folder, when it is no picture or a damaged one.
    """
    try:
        with Image.open(path, formats=_FORMATS) as file:
            file.load()
            upright = ImageOps.exif_transpose(file)
            return _to_srgb(upright)
    except _BROKEN as error:
        raise BadInput(f"{path.name} is not a photo that can be read (JPEG, PNG, HEIC or WebP)") from error


def buckets(resolution: int, step: int) -> list[tuple[int, int]]:
    """(height, width) pairs of about resolution² pixels, each side a multiple of `step`, from 1:2 to 2:1."""
    return [(int(h), int(w)) for h, w in generate_aspect_ratio_buckets(resolution, divisibility=step)]


def fit(photo: Image.Image, sizes: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    """The photo (H, W, 3) at the (height, width) whose shape is nearest, so that at most a thin margin is cut."""
    ratio = photo.height / photo.width
    height, width = min(sizes, key=lambda size: abs(math.log(size[0] / size[1] / ratio)))
    fitted = ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted, dtype=np.uint8)


def _to_srgb(photo: Image.Image) -> Image.Image:
    """Phones write Display P3; models learn sRGB. Transparent parts become white."""
    profile = photo.info.get("icc_profile")
    if photo.has_transparency_data:
        layer = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if profile and photo.mode in ("RGB", "CMYK", "L"):
        try:
            converted = ImageCms.profileToProfile(
                photo,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except ImageCms.PyCMSError:
            converted = None  # a damaged profile says nothing about the picture
        if converted is not None:
            return converted
    return photo.convert("RGB")

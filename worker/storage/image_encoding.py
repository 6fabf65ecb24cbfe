"""Encode the raw pixels that the GPU process wrote as the file that an app downloads. Blocking: run it in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from worker.storage.checksums import sha256_of

SUFFIX = {"png": "png", "jpeg": "jpg", "webp": "webp"}
CONTENT_TYPE = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

EXIF_SOFTWARE = 0x0131
EXIF_IMAGE_DESCRIPTION = 0x010E


@dataclass(frozen=True)
class EncodedPicture:
    """An encoded picture file. `width` and `height` are in pixels."""

    path: Path
    width: int
    height: int
    sha256: str
    size_bytes: int


def encode(pixels: Path, path: Path, output_format: str, quality: int, metadata: Mapping[str, str]) -> EncodedPicture:
    """Write uint8 (H, W, 3) pixels from a .npy file as png, jpeg or webp, with an sRGB profile and metadata.

    `quality` applies to jpeg and webp. The metadata names base model, seed, steps and job; never a prompt or a person.
    """
    picture = Image.fromarray(np.load(pixels))
    options: dict[str, Any] = {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    if output_format == "png":
        text = PngImagePlugin.PngInfo()
        for name, value in metadata.items():
            text.add_text(name, value)
        # Level 3 is three times as fast as the default, for files that are a few per cent larger.
        options |= {"pnginfo": text, "compress_level": 3}
    else:
        exif = Image.Exif()
        exif[EXIF_SOFTWARE] = metadata.get("Software", "")
        exif[EXIF_IMAGE_DESCRIPTION] = "; ".join(f"{name}={value}" for name, value in metadata.items())
        options |= {"exif": exif.tobytes(), "quality": quality}
    picture.save(path, output_format, **options)
    return EncodedPicture(path, picture.width, picture.height, sha256_of(path), path.stat().st_size)

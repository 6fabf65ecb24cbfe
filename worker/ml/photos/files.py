"""Reading photo files with Pillow: HEIC support, the errors of damaged files, and EXIF orientation.

Used by `worker.ml`, which trains on photos, and by the demo, which reads them without torch.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

register_heif_opener()

DAMAGED = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error),
    *(TypeError, AttributeError, LookupError, ArithmeticError),  # EXIF tags of an unexpected type or count
)
"""What Pillow and libheif raise for files that are damaged."""


def turn_upright(picture: Image.Image) -> None:
    """Turn a picture as its EXIF orientation says. EXIF that cannot be read is ignored."""
    with suppress(*DAMAGED):
        ImageOps.exif_transpose(picture, in_place=True)

"""Files of photographs as Pillow reads them here: HEIC too, and what is raised for those that are damaged.

For the demo, which looks at them without torch, and for `worker.ml`, which trains on them.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

register_heif_opener()

DAMAGED = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error),
    *(TypeError, AttributeError, LookupError, ArithmeticError),  # tags of a type or a number that nobody expected
)
"""What Pillow and libheif raise for files that are damaged."""


def turn_upright(picture: Image.Image) -> None:
    """As its EXIF says; EXIF that cannot be read says nothing about the picture."""
    with suppress(*DAMAGED):
        ImageOps.exif_transpose(picture, in_place=True)

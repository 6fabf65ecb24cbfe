"""A thing to refer to."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

SIDE_PX = 128


def draw_mug(path: Path) -> None:
    """Write the picture of a red mug."""
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), (226, 222, 214))
    drawing = ImageDraw.Draw(picture)
    drawing.ellipse((80, 46, 116, 90), outline=(190, 40, 36), width=9)
    drawing.rounded_rectangle((28, 34, 92, 106), 10, fill=(196, 44, 40))
    drawing.ellipse((28, 26, 92, 44), fill=(120, 24, 22))
    picture.save(path)

"""Drawn products for the tests of meshes: a mug with a handle and a stripe."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from worker.ml.protocol import Pixels

RED, YELLOW, DARK = (205, 70, 45), (245, 215, 90), (70, 35, 30)
SIDE = 256


def mug(background: Any = (250, 250, 250), side: int = SIDE) -> Image.Image:
    """A red mug with a yellow stripe, its handle on the right, in a picture of this mode's background."""
    drawn = side * 4
    picture = Image.new("RGB" if len(background) == 3 else "RGBA", (drawn, drawn), background)
    draw = ImageDraw.Draw(picture)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return (left * drawn, top * drawn, right * drawn, bottom * drawn)

    draw.ellipse(box(0.58, 0.37, 0.86, 0.72), outline=RED, width=drawn // 15)
    draw.rounded_rectangle(box(0.23, 0.25, 0.68, 0.82), drawn // 12, fill=RED)
    draw.rectangle(box(0.23, 0.47, 0.68, 0.59), fill=YELLOW)
    draw.ellipse(box(0.23, 0.2, 0.68, 0.32), fill=DARK)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def uneven(picture: Image.Image) -> Image.Image:
    """The same object before dark stripes; `picture` has a transparent background."""
    stripes = np.array([(34, 6, 2), (8, 29, 2), (8, 6, 16)], np.uint8)  # as bright to the tests' network
    columns = stripes[np.arange(picture.width) // 20 % 3]
    backdrop = Image.fromarray(np.repeat(columns[None], picture.height, axis=0)).convert("RGBA")
    return Image.alpha_composite(backdrop, picture).convert("RGB")


def pixels_of(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGBA"))

"""Control pictures: maps of a whole picture, fitted to the shape of the one that is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from worker.ml.protocol import Pixels

SAME_SHAPE = 0.02
"""By how much the ratio of width to height may differ: sizes are rounded to what a base can draw."""


def has_shape(pixels: Pixels, width: int, height: int) -> bool:
    """Return True if a map has the shape of a picture of this size, so that it is only resized."""
    own_height, own_width = pixels.shape[:2]
    return bool(abs(own_width * height / (width * own_height) - 1) <= SAME_SHAPE)


def fit(pixels: Pixels, width: int, height: int, read: Callable[[Pixels], Pixels] | None = None) -> Pixels:
    """Return a map (height, width, 3) of a picture's size, resized as diffusers does.

    A map of another shape keeps its own: it is resized to lie inside, in the middle, and the rest is black, which means
    "nothing" to control networks of edges and poses, and "far away" to those of depths. `read` makes the map of the
    resized picture, where that is a photo: the border around it is not part of it.
    """
    read = read or _unchanged
    if has_shape(pixels, width, height):
        return read(_resized(pixels, width, height))
    own_height, own_width = pixels.shape[:2]
    scale = min(width / own_width, height / own_height)
    inner = read(_resized(pixels, max(1, round(own_width * scale)), max(1, round(own_height * scale))))
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return fitted


def _unchanged(pixels: Pixels) -> Pixels:
    return pixels


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))

"""Crops a cut-out to its object, and pads it to a square on grey, as TripoSR's own program does."""

from __future__ import annotations

import numpy as np

from worker.ml.cutout.errors import AllTransparent, NoForeground, TooNarrow
from worker.ml.protocol import Pixels

RATIO = 0.85
"""The object's longer side to the square's."""
GREY = 0.5
MIN_SIDE_PX = 16
"""Of the object's longer side. Fewer pixels show no shape."""
MAX_RATIO = 8
"""Of its longer side to its shorter: in the 512 pixels that the network sees, a longer object is a line."""


def check(cutout: Pixels) -> None:
    """Raise AllTransparent, NoForeground or TooNarrow for a cut-out (H, W, 4) that has no usable object."""
    if not cutout[..., 3].any():
        raise AllTransparent("all of it is transparent")
    top, bottom, left, right = _bounds(cutout)
    height, width = bottom - top, right - left
    if max(height, width) < MIN_SIDE_PX:
        raise NoForeground(
            f"the object is only {width + 1} x {height + 1} pixels, at least {MIN_SIDE_PX} are needed on one side"
        )
    if max(height, width) > MAX_RATIO * min(height, width):
        raise TooNarrow(
            f"the object is {width + 1} x {height + 1} pixels: one side must be at most {MAX_RATIO} times the other"
        )


def centred(cutout: Pixels, ratio: float = RATIO, grey: float = GREY) -> Pixels:
    """Return a cut-out (H, W, 4) that `check` accepts as a square (S, S, 3) with its object in the middle.

    Bit by bit what the official program makes of it: its crop leaves out the object's last row and column, and colours
    are truncated to 8 bits, not rounded.
    """
    top, bottom, left, right = _bounds(cutout)
    cropped = cutout[top:bottom, left:right]
    square = _padded(cropped, max(cropped.shape[:2]))
    square = _padded(square, int(len(square) / ratio))
    colours, alpha = square[..., :3].astype(np.float32) / 255, square[..., 3:].astype(np.float32) / 255
    composite = colours * alpha + (1 - alpha) * np.float32(grey)
    return (composite * 255).astype(np.uint8)


def _bounds(cutout: Pixels) -> tuple[int, int, int, int]:
    """Return the first and last row, and the first and last column, that are not all transparent."""
    rows, columns = (np.flatnonzero(cutout[..., 3].any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def _padded(pixels: Pixels, side: int) -> Pixels:
    """Pad with transparency to a square; what cannot be halved goes below and to the right."""
    missing = [side - length for length in pixels.shape[:2]]
    return np.pad(pixels, [*((each // 2, each - each // 2) for each in missing), (0, 0)])

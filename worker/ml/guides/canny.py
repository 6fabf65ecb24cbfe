"""The edges of a picture, for control networks that were trained on them."""

from __future__ import annotations

import numpy as np

from worker.ml.protocol import Pixels

LOW, HIGH = 100, 200
"""Gradients between which a pixel is an edge if it continues one: lllyasviel's ControlNet and the examples of those
published after it (xinsir6/ControlNetPlus: controlnet_union_test_canny.py) use these."""
GREY, DARK, LIGHT = 16, 32, 223
"""How far channels may differ, and where black ends and white begins: what JPEG leaves of an edge map."""


def edges(pixels: Pixels) -> Pixels:
    """Return the edges (H, W, 3) of a picture, white on black, by Canny's method (OpenCV).

    Those of an edge map would be double lines: ask `is_edge_map` first.
    """
    # Imported here: the GPU process needs OpenCV for little else.
    import cv2

    found = cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)  # (H, W), 0 or 255
    return np.repeat(found[..., None], 3, axis=2).astype(np.uint8)


def is_edge_map(pixels: Pixels) -> bool:
    """Return True for white lines on black: at least 98 % of the pixels are black or white, and half of them black."""
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    if int((high - low).max()) > GREY:
        return False
    dark, light = (high <= DARK).mean(), (low >= LIGHT).mean()
    return bool(dark >= 0.5 and dark + light >= 0.98)

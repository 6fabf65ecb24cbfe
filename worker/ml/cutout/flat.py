"""Removes a background of one colour, as in most product pictures, without a model."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.ml.protocol import Pixels

Mask = npt.NDArray[np.uint8]
"""(H, W), 255 where the object is."""

_BORDER = 0.02
"""Of the shorter side: the margin that shows whether the background is flat."""
_FLAT_SHARE = 0.97
"""Of the margin's pixels that must have its colour; an object that is cut off takes more than the rest."""
_TOLERANCE = 12
"""Of 255, in any channel: noise of a JPEG, and lighting that is not quite even."""
_VERY_SHARE = 0.75
"""Of an enclosed part's pixels that must be as near to the background's colour as nine in ten of its own, or by one of
255 further; the rest is blurred with the object around it."""
_SPECK = 0.01
"""Of the object's area: smaller parts, and holes, are dust and noise. They would widen the crop."""


def object_on_flat_background(pixels: Pixels) -> Mask | None:
    """Return where the object of a picture (H, W, 3) is, or None if its background is not flat.

    What the border reaches is background. So is what the object encloses if it has the background's very colour, as
    seen through a handle; a white label before white, photographed, has not. A shadow that is darker than the tolerance
    counts as part of the object.
    """
    margin = _margin(pixels.shape[:2])
    colour = np.median(pixels[margin], axis=0)
    difference = np.abs(pixels - colour.astype(np.int16)).max(axis=-1)
    same = difference <= _TOLERANCE
    if same[margin].mean() < _FLAT_SHARE:
        return None
    count, parts = cv2.connectedComponents(same.astype(np.uint8), connectivity=4)
    areas = np.bincount(parts.ravel(), minlength=count)
    reached = np.isin(np.arange(count), parts[margin & same])
    very_same = difference <= np.percentile(difference[reached[parts]], 90) + 1
    very_shares = np.bincount(parts.ravel(), very_same.ravel(), minlength=count) / areas.clip(min=1)
    background = reached | ((very_shares >= _VERY_SHARE) & (areas >= _SPECK * (~same).sum()))
    mask = np.where(same & background[parts], 0, 255).astype(np.uint8)
    # The outermost pixels are mixed with the background: they would leave a halo.
    return _without_specks(cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=255).astype(np.uint8))


def _margin(size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    width = max(1, round(_BORDER * min(size)))
    margin = np.ones(size, bool)
    margin[width:-width, width:-width] = False
    return margin


def _without_specks(mask: Mask) -> Mask:
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]  # without the background
    if not len(areas):
        return mask
    kept = 1 + np.flatnonzero(areas >= _SPECK * areas.max())
    return np.where(np.isin(parts, kept), mask, 0).astype(np.uint8)

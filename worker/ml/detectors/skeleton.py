"""Skeletons as OpenPose draws them, which control networks of poses were trained on.

Facts (points, limbs, colours, widths) follow CMU-Perceptual-Computing-Lab/openpose (BODY_18) and lllyasviel/ControlNet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worker.ml.protocol import Pixels

Points = npt.NDArray[np.float64]
"""(K, 2), x and y in pixels; NaN where a point is not seen."""

NOSE, NECK = 0, 1
FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""The number among COCO's 17 points of each of OpenPose's 18: nose, neck, arms, legs, eyes and ears, the right ones
first."""
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""The points that each limb joins. Limb and point of the same number have the same colour."""
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
LIMB_BRIGHTNESS = 0.6
HALF_WIDTH = 4 / 512
"""Of a limb and of a point, as a share of the shorter side."""


def from_coco(points: Points) -> Points:
    """Return OpenPose's 18 points of COCO's 17; the neck is halfway between the shoulders."""
    neck = (points[5] + points[6]) / 2  # NaN without one of them
    return np.stack([neck if number is None else points[number] for number in FROM_COCO])


def draw(people: Sequence[Points], height: int, width: int) -> Pixels:
    """Return the skeletons (height, width, 3) of people with 18 points each, on black: limbs below points."""
    # Imported here: the GPU process needs OpenCV for little else.
    import cv2

    canvas = np.zeros((height, width, 3), np.uint8)
    half_width = max(1, round(HALF_WIDTH * min(height, width)))
    for points in people:
        for (begin, end), colour in zip(LIMBS, COLOURS, strict=False):
            if np.isfinite(points[[begin, end]]).all():
                (x0, y0), (x1, y1) = points[begin], points[end]
                centre = (round((x0 + x1) / 2), round((y0 + y1) / 2))
                axes = (round(math.hypot(x1 - x0, y1 - y0) / 2), half_width)
                outline = cv2.ellipse2Poly(centre, axes, round(math.degrees(math.atan2(y1 - y0, x1 - x0))), 0, 360, 1)
                cv2.fillConvexPoly(canvas, np.asarray(outline), [int(LIMB_BRIGHTNESS * channel) for channel in colour])
    for points in people:
        for (x, y), colour in zip(points, COLOURS, strict=True):
            if math.isfinite(x + y):
                cv2.circle(canvas, (round(x), round(y)), half_width, colour, thickness=-1)
    return canvas

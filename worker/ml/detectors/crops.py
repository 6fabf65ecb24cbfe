"""People cut out of a photo for a network of key points, and its heat maps put back into the photo.

Facts follow transformers: models/vitpose/image_processing_vitpose.py, whose finer search of peaks changes no skeleton.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.ml.detectors.skeleton import Points
from worker.ml.protocol import Pixels

MARGIN = 1.25
"""By how much the crop around a person is larger than its box."""
POINT_SCORE = 0.3
Box = npt.NDArray[np.float64]
"""(4,): left, top, width and height in pixels."""
Boxes = npt.NDArray[np.float64]
"""(P, 4): a box for each person."""


def around(box: Box, ratio: float) -> Box:
    """Return the crop around a box: of this ratio of width to height, and larger."""
    left, top, width, height = box
    across = MARGIN * max(width, height * ratio)
    down = across / ratio
    return np.array([left + (width - across) / 2, top + (height - down) / 2, across, down])


def cropped(photo: Pixels, crop: Box, height: int, width: int) -> Pixels:
    """Return the crop of a photo, resized; black outside of the photo."""
    # Imported here: the GPU process needs OpenCV for little else.
    import cv2

    left, top, across, down = crop
    x, y = (width - 1) / across, (height - 1) / down
    matrix = np.array([[x, 0, -left * x], [0, y, -top * y]])
    return np.asarray(cv2.warpAffine(photo, matrix, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def peaks(heatmaps: npt.NDArray[np.float64], crop: Box) -> Points:
    """Return the points (K, 2) of heat maps (K, h, w) in the photo: a quarter pixel from the peaks to the warmer."""
    count, height, width = heatmaps.shape
    points = np.full((count, 2), np.nan)
    for number, heat in enumerate(heatmaps):
        y, x = divmod(int(heat.argmax()), width)
        if heat[y, x] < POINT_SCORE:
            continue
        right = np.sign(heat[y, min(x + 1, width - 1)] - heat[y, max(x - 1, 0)]) / 4
        down = np.sign(heat[min(y + 1, height - 1), x] - heat[max(y - 1, 0), x]) / 4
        share = np.array([(x + right) / (width - 1), (y + down) / (height - 1)])
        points[number] = crop[:2] + share * crop[2:]
    return points

"""The depths of a photo by Depth Anything: near is white, as control networks were trained.

Facts follow transformers: models/depth_anything/, and the preprocessing of its published configurations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import DepthAnythingForDepthEstimation

from worker.ml.detectors.detector import Detector
from worker.ml.detectors.files import load_network
from worker.ml.detectors.photos import normalised, resized
from worker.ml.errors import ModelUnreadable
from worker.ml.protocol import Pixels

MAX_RATIO = 3
"""Of its sides: narrower photos are squeezed, and their depths stretched again."""


class DepthDetector(Detector):
    """Depths from 0 (the farthest of the photo) to 255 (the nearest)."""

    def __init__(self, folder: Path, network: Any) -> None:
        super().__init__(folder, network)
        self._network = network

    def read(self, photo: Pixels, device: torch.device) -> Pixels:
        height, width = photo.shape[:2]
        patch, shorter = int(self._network.config.patch_size), int(self._network.config.backbone_config.image_size)
        longer = shorter * min(MAX_RATIO, max(height, width) / min(height, width))
        sides = (shorter, longer) if height <= width else (longer, shorter)
        inner_height, inner_width = (round(side / patch) * patch for side in sides)
        fitted = resized(photo, inner_height, inner_width, Image.Resampling.BICUBIC)
        near = self._network(pixel_values=normalised(fitted[None], device)).predicted_depth[:, None]
        if near.min() == near.max():
            return np.zeros_like(photo)
        near = torch.nn.functional.interpolate(near, (height, width), mode="bicubic")[0, 0]
        grey = ((near - near.min()) / (near.max() - near.min()) * 255).round().byte().cpu().numpy()
        return np.repeat(grey[..., None], 3, axis=2)


def load_depth(folder: Path) -> DepthDetector:
    """Load a detector of depths on the CPU. Raises ModelUnreadable, naming the folder."""
    network = load_network(folder, DepthAnythingForDepthEstimation, folder.name)
    if network.config.depth_estimation_type != "relative":
        raise ModelUnreadable(f"{folder.name} measures depths in metres, which is unsupported: use a relative one")
    return DepthDetector(folder, network)

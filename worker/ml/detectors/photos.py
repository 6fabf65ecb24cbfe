"""Photos as networks read them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from worker.ml.protocol import Pixels

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures in 0..1, by channel."""


def resized(photo: Pixels, height: int, width: int, resample: Image.Resampling) -> Pixels:
    """Return a photo (height, width, 3), whatever its shape was."""
    return np.asarray(Image.fromarray(photo).resize((width, height), resample))


def in_unit(photos: Pixels, device: torch.device) -> torch.Tensor:
    """Return photos (N, H, W, 3) as (N, 3, H, W) in 0..1, float32."""
    return torch.from_numpy(photos.copy()).to(device).permute(0, 3, 1, 2).float() / 255


def normalised(photos: Pixels, device: torch.device) -> torch.Tensor:
    """Return photos (N, H, W, 3) as (N, 3, H, W), of mean 0 and deviation 1 over ImageNet."""
    mean, deviation = (torch.tensor(of, device=device)[:, None, None] for of in (MEAN, DEVIATION))
    return (in_unit(photos, device) - mean) / deviation

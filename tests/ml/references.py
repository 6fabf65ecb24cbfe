"""Reference pictures of the tests."""

from __future__ import annotations

import numpy as np
from PIL import Image

from worker.ml.protocol import Pixels


def reference(height: int, width: int, seed: int = 0) -> Pixels:
    """A picture of 4 x 4 coloured fields with some noise."""
    generator = np.random.default_rng(seed)
    fields = Image.fromarray(generator.integers(0, 255, (4, 4, 3), np.uint8)).resize((width, height), 0)
    return (np.asarray(fields) * 0.9 + generator.integers(0, 25, (height, width, 3))).astype(np.uint8)


def as_pil(pictures: tuple[Pixels, ...]) -> list[Image.Image]:
    """As diffusers' pipelines take them."""
    return [Image.fromarray(picture) for picture in pictures]

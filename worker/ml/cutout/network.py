"""Removes any background by one of rembg's networks: its published ONNX file, run by onnxruntime.

The package rembg itself is not used: it downloads its files, and brings packages that nothing else needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worker.ml.cutout.flat import Mask
from worker.ml.errors import ModelUnreadable
from worker.ml.extra_packages import imported
from worker.ml.not_weights import kind_of
from worker.ml.protocol import Pixels


@dataclass(frozen=True)
class Recipe:
    """How a network's pictures are prepared."""

    side_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RECIPES: Mapping[str, Recipe] = {
    "u2net": Recipe(320, *_IMAGENET),
    "u2netp": Recipe(320, *_IMAGENET),
    "silueta": Recipe(320, *_IMAGENET),
    "isnet-general-use": Recipe(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
}
"""By the file's name as rembg publishes it, without .onnx. Source: the preparation of its sessions."""
_NOISE = 13
"""Of 255: fainter than this is background. What a network leaves there would widen the crop to the whole picture."""


@dataclass(frozen=True)
class BackgroundNetwork:
    """A loaded network."""

    session: Any  # onnxruntime's InferenceSession
    recipe: Recipe
    file_bytes: int

    @property
    def anonymous_bytes(self) -> int:
        """Return the host memory that it holds: onnxruntime copies the weights."""
        return self.file_bytes

    def mask(self, pixels: Pixels) -> Mask:
        """Return how much of each pixel of a picture (H, W, 3) belongs to the object, 0…255."""
        height, width, _ = pixels.shape
        side = self.recipe.side_px
        small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), np.float32)
        prepared = (small / max(small.max(), 1e-6) - self.recipe.mean) / self.recipe.std
        (name,) = (each.name for each in self.session.get_inputs())
        answer = self.session.run(None, {name: prepared.astype(np.float32).transpose(2, 0, 1)[None]})[0]
        saliency = np.asarray(answer, np.float32)[0, 0]
        low, high = saliency.min(), saliency.max()
        stretched = (saliency - low) / max(high - low, 1e-6)
        mask = Image.fromarray((stretched * 255).astype(np.uint8)).resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(mask.point(lambda value: value if value >= _NOISE else 0))


def load(path: Path) -> BackgroundNetwork:
    """Load a network on the CPU. Raises ModelUnreadable, and PackageMissing without the extra `mesh`."""
    recipe = RECIPES.get(path.stem)
    if recipe is None or path.suffix != ".onnx":
        known = ", ".join(f"{name}.onnx" for name in RECIPES)
        raise ModelUnreadable(f"{path.name} is not a network that removes backgrounds: use one of {known}")
    if not path.is_file():
        raise ModelUnreadable(f"{path.name} not found in {path.parent.name}")
    onnxruntime = imported("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: warnings about unused initialisers say nothing to anyone
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common class
        raise ModelUnreadable(f"{path.name} cannot be read: {kind_of(path) or error}") from error
    return BackgroundNetwork(session, recipe, path.stat().st_size)

"""Upscaling by spandrel, which recognises a network by its weights. The tiles are ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from spandrel import ImageModelDescriptor, ModelLoader

from worker.ml.errors import ModelUnreadable
from worker.ml.memory import anonymous_bytes
from worker.ml.networks.precision import prepare
from worker.ml.networks.upscaler import OVERLAP, TILE, Tile, Upscaling


@dataclass(frozen=True)
class SpandrelUpscaler:
    """An `Upscaler` that spandrel runs."""

    scale: int
    network: Any  # spandrel's ImageModelDescriptor

    @property
    def anonymous_bytes(self) -> int:
        return anonymous_bytes([*self.network.model.parameters()])

    def upscale(self, pixels: npt.NDArray[np.uint8], *, tile: int = TILE, overlap: int = OVERLAP) -> Upscaling:
        height, width, _ = pixels.shape
        scale = self.scale
        enlarged = np.empty((height * scale, width * scale, 3), np.uint8)
        tiles = list(product(_spans(height, tile, overlap), _spans(width, tile, overlap)))
        for index, ((top, bottom, above, below), (left, right, before, after)) in enumerate(tiles, 1):
            piece = self._whole(pixels[above:below, before:after])
            enlarged[top * scale : bottom * scale, left * scale : right * scale] = piece[
                (top - above) * scale : (bottom - above) * scale,
                (left - before) * scale : (right - before) * scale,
            ]
            yield Tile(index, len(tiles))
        return enlarged

    @torch.no_grad()
    def _whole(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        signal = torch.from_numpy(pixels.copy()).to(self.network.device)
        signal = signal.permute(2, 0, 1)[None].to(self.network.dtype) / 255
        result: npt.NDArray[np.uint8] = (
            (self.network(signal)[0].float() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        )
        return result


def load(path: Path, device: torch.device, dtype: torch.dtype | None) -> SpandrelUpscaler:
    """Load the weights of any upscaler that spandrel knows. Raises what spandrel raises, and ModelUnreadable."""
    network = ModelLoader(device).load_from_file(path)
    if not isinstance(network, ImageModelDescriptor) or network.scale not in (2, 4) or network.input_channels != 3:
        raise ModelUnreadable(f"{path.name} is not an x2 or x4 upscaler of colour pictures")
    prepare(network.model, device, dtype)
    return SpandrelUpscaler(network.scale, network)


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield, along one side, where each tile begins and ends, and where the pixels that it sees begin and end."""
    for begin in range(0, length, tile):
        end = min(begin + tile, length)
        yield begin, end, max(0, begin - overlap), min(length, end + overlap)

"""Real-ESRGAN: the official weights, loaded and run by spandrel, in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

from worker.ml import kernels
from worker.ml.errors import ModelUnreadable

TILE = 512
"""Side of a tile in input pixels: about 3 GiB of device memory at x4 with the official weights in float16."""
OVERLAP = 64
"""Input pixels that a tile sees beyond its own. The 23 blocks reach further, but pixels beyond 64 change no 8-bit value
visibly; the official tool uses 10. Both are multiples of 4, as the x2 weights need."""


@dataclass(frozen=True)
class Upscaler:
    scale: int
    device: torch.device
    network: Any  # spandrel's ImageModelDescriptor

    @torch.no_grad()
    def upscale(
        self, pixels: npt.NDArray[np.uint8], *, tile: int = TILE, overlap: int = OVERLAP
    ) -> npt.NDArray[np.uint8]:
        """Enlarge (H, W, 3) to (H·scale, W·scale, 3); sRGB, 0…255."""
        height, width, _ = pixels.shape
        scale = self.scale
        enlarged = np.empty((height * scale, width * scale, 3), np.uint8)
        for top, bottom, above, below in _spans(height, tile, overlap):
            for left, right, before, after in _spans(width, tile, overlap):
                piece = self._whole(pixels[above:below, before:after])
                enlarged[top * scale : bottom * scale, left * scale : right * scale] = piece[
                    (top - above) * scale : (bottom - above) * scale,
                    (left - before) * scale : (right - before) * scale,
                ]
        return enlarged

    def _whole(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        signal = torch.from_numpy(pixels.copy()).to(self.device)
        signal = signal.permute(2, 0, 1)[None].to(self.network.dtype) / 255
        result: npt.NDArray[np.uint8] = (
            (self.network(signal)[0].float() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        )
        return result


def load(path: Path, device: str | None = None) -> Upscaler:
    """Load Real-ESRGAN x2 or x4 weights; float16 on a GPU, as the official tool does.

    Raises ModelUnreadable: not a safetensors file, damaged, or another kind of network.
    """
    if path.suffix != ".safetensors":
        raise ModelUnreadable(f"{path.name}: unsupported file type, only .safetensors files are loaded")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        network = ModelLoader(place).load_from_file(path)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, UnsupportedModelError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnreadable(f"{path} is not a readable upscaler: {error}") from error
    if not isinstance(network, ImageModelDescriptor) or network.scale not in (2, 4) or network.input_channels != 3:
        raise ModelUnreadable(f"{path.name} is not an x2 or x4 upscaler of colour pictures")
    if place.type == "cuda":
        network.half()
        network.model.to(memory_format=torch.channels_last)
    network.model.requires_grad_(False)
    return Upscaler(network.scale, place, network)


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield, along one side, where each tile begins and ends, and where the pixels that it sees begin and end."""
    for begin in range(0, length, tile):
        end = min(begin + tile, length)
        yield begin, end, max(0, begin - overlap), min(length, end + overlap)


def build_tiny(path: Path, scale: int, seed: int = 0) -> None:
    """Write a network of one block in the official key layout, x2 or x4, whose pictures a person recognises.

    Three channels pass the picture through, interpolated and sharpened on the way; random weights add some texture.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    filters, growth = 16, 32  # spandrel's network always grows by 32
    colours = 12 if scale == 2 else 3  # the x2 layout folds 2x2 pixels into channels first
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, carried: torch.Tensor | None = None) -> None:
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.02
        weight -= weight.mean((2, 3), keepdim=True)  # texture without a tint
        if carried is not None:
            weight[: carried.shape[0], : carried.shape[1]] += carried
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, torch.zeros(outputs)

    interpolated = kernels.each(3, kernels.BETWEEN)
    conv("conv_first", colours, filters, kernels.each(colours, kernels.SAME))
    for part in (1, 2, 3):
        for layer in (1, 2, 3, 4, 5):
            inputs = filters + (layer - 1) * growth
            conv(f"body.0.rdb{part}.conv{layer}", inputs, growth if layer < 5 else filters)
    conv("conv_body", filters, filters)
    conv("conv_up1", filters, filters, kernels.unfold() if scale == 2 else interpolated)
    conv("conv_up2", filters, filters, interpolated)
    conv("conv_hr", filters, filters, kernels.each(3, kernels.SAME))
    conv("conv_last", filters, 3, kernels.each(3, kernels.SHARPER))
    save_file(state, path)

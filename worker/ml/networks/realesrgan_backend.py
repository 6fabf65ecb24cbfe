"""Upscaling by the package realesrgan: its network, its `RealESRGANer`, its tiles."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from worker.ml.memory import anonymous_bytes
from worker.ml.networks.functional_tensor import functional_tensor
from worker.ml.networks.precision import prepare
from worker.ml.networks.upscaler import OVERLAP, TILE, Tile, Upscaling

with functional_tensor():
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from realesrgan import RealESRGANer

Network = Callable[[torch.Tensor], torch.Tensor]
"""From (1, 3, h, w) to (1, 3, h·scale, w·scale), in 0…1."""


class _LoadedRealESRGANer(RealESRGANer):  # type: ignore[misc]  # no types
    """RealESRGANer with a network in memory: its own constructor unpickles a file.

    `pre_pad` is 0. Otherwise it pads the whole picture below and to the right, which changes pixels at these borders.
    """

    def __init__(self, network: Network, scale: int, like: torch.Tensor, tile: int, overlap: int) -> None:
        self.model = network
        self.scale = scale
        self.device, self.half = like.device, like.dtype == torch.float16
        self.tile_size, self.tile_pad, self.pre_pad = tile, overlap, 0
        self.mod_scale = None


@dataclass(frozen=True)
class RealesrganUpscaler:
    """An `Upscaler` that realesrgan runs.

    RealESRGANer's tiles are one loop, which cannot be left and reports no error: it prints one, and continues with
    another tile's pixels. So it runs twice, each time with a function in the network's place: first one that records
    the tiles, then one that returns what the network made of them. Between the two, tile by tile, the network runs.
    """

    scale: int
    network: torch.nn.Module

    @property
    def anonymous_bytes(self) -> int:
        return anonymous_bytes([*self.network.parameters()])

    def upscale(self, pixels: npt.NDArray[np.uint8], *, tile: int = TILE, overlap: int = OVERLAP) -> Upscaling:
        pieces = self._cut(pixels, tile, overlap)
        enlarged = []
        for index, piece in enumerate(pieces, 1):
            with torch.no_grad():
                enlarged.append(self.network(piece))
            yield Tile(index, len(pieces))
        return self._merge(pixels, enlarged, tile, overlap)

    def _cut(self, pixels: npt.NDArray[np.uint8], tile: int, overlap: int) -> list[torch.Tensor]:
        """Return the tiles of a picture, as RealESRGANer hands them to its network."""
        pieces: list[torch.Tensor] = []

        def record(piece: torch.Tensor) -> torch.Tensor:
            pieces.append(piece)
            _, channels, height, width = piece.shape
            return piece.new_zeros(()).expand(1, channels, height * self.scale, width * self.scale)

        official = self._official(record, tile, overlap)
        official.pre_process(pixels.astype(np.float32) / 255)
        with redirect_stdout(io.StringIO()):  # it prints a line a tile
            official.tile_process()
        return pieces

    def _merge(
        self, pixels: npt.NDArray[np.uint8], enlarged: list[torch.Tensor], tile: int, overlap: int
    ) -> npt.NDArray[np.uint8]:
        """Return the picture that RealESRGANer makes of the enlarged tiles."""
        results = iter(enlarged)
        official = self._official(lambda _: next(results), tile, overlap)
        with redirect_stdout(io.StringIO()):
            bgr, _ = official.enhance(np.ascontiguousarray(pixels[..., ::-1]))  # OpenCV's order of colours
        return np.ascontiguousarray(bgr[..., ::-1])

    def _official(self, network: Network, tile: int, overlap: int) -> _LoadedRealESRGANer:
        return _LoadedRealESRGANer(network, self.scale, next(self.network.parameters()), tile, overlap)


def load(path: Path, device: torch.device, dtype: torch.dtype | None) -> RealesrganUpscaler:
    """Load weights with the official names of layers.

    Raises KeyError or RuntimeError for other names and shapes.
    """
    weights = load_file(path)
    scale = 2 if weights["conv_first.weight"].shape[1] == 12 else 4  # the x2 layout folds 2x2 pixels into channels
    network = _network(weights, scale)
    network.load_state_dict(weights, strict=True)
    prepare(network, device, dtype)
    return RealesrganUpscaler(scale, network)


def _network(weights: Mapping[str, torch.Tensor], scale: int) -> torch.nn.Module:
    """Build the network that has the shapes of these weights."""
    network: torch.nn.Module = RRDBNet(
        num_in_ch=3,
        num_out_ch=3,
        scale=scale,
        num_feat=weights["conv_first.weight"].shape[0],
        num_block=len({name.split(".")[1] for name in weights if name.startswith("body.")}),
        num_grow_ch=weights["body.0.rdb1.conv1.weight"].shape[0],
    )
    return network

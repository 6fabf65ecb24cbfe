"""What an upscaler is to its caller, whichever package runs it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

TILE = 512
"""Side of a tile in input pixels: about 3 GiB of device memory at x4 with the official weights in float16."""
OVERLAP = 64
"""Input pixels that a tile sees beyond its own. The 23 blocks reach further, but pixels beyond 64 change no 8-bit value
visibly; the official tool uses 10. Both are multiples of 4, as the x2 weights need."""


@dataclass(frozen=True)
class Tile:
    """A tile was enlarged."""

    index: int
    """From 1 to `total`."""
    total: int


Upscaling = Generator[Tile, None, npt.NDArray[np.uint8]]
"""An upscaling that runs: yields after each tile, where it can be stopped, and returns the enlarged picture."""


class Upscaler(Protocol):
    """A network that enlarges pictures, loaded on its device."""

    @property
    def scale(self) -> int:
        """Return how many times wider and higher a picture becomes: 2 or 4."""

    @property
    def anonymous_bytes(self) -> int:
        """Return the host memory that it holds: none, where its weights are on a GPU."""

    def upscale(self, pixels: npt.NDArray[np.uint8], *, tile: int = TILE, overlap: int = OVERLAP) -> Upscaling:
        """Enlarge (H, W, 3) to (H·scale, W·scale, 3); sRGB, 0…255."""

"""A loaded detector, which is on the device only while it reads a photo."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from worker.ml import memory
from worker.ml.masters import Masters
from worker.ml.models import Base
from worker.ml.protocol import Pixels

WORK_BYTES = memory.GIB // 2
"""What a detector needs besides its weights at most. Measured at the published geometry: 0.31 GiB for the narrowest
depths and 0.22 for 16 poses; libraries need some for themselves."""


class Detector(ABC):
    """Its weights are in float32, so that a photo has the same map on every device."""

    def __init__(self, folder: Path, *networks: Any) -> None:
        self.folder = folder
        self._masters = [Masters(network) for network in networks]

    @property
    def anonymous_bytes(self) -> int:
        return memory.anonymous_bytes([tensor for masters in self._masters for tensor in masters.tensors])

    @torch.no_grad()
    def map_of(self, photo: Pixels, base: Base) -> Pixels:
        """Return the map (H, W, 3) of a photo (H, W, 3), made on the device of a base that draws next.

        Raises BadInput for a photo that does not show what is looked for.
        """
        with self._placed(base):
            return self.read(photo, base.device)

    @abstractmethod
    def read(self, photo: Pixels, device: torch.device) -> Pixels:
        """Return the map of a photo, where the networks are on the device."""

    @contextmanager
    def _placed(self, base: Base) -> Iterator[None]:
        """Have the networks on the base's device inside the block; the base makes room if it must."""
        free = memory.free_device_bytes(base.device)
        if free is None:
            yield
            return
        if free < sum(masters.nbytes for masters in self._masters) + WORK_BYTES:
            base.to_host()
        try:
            for masters in self._masters:
                masters.to_device(base.device)
            yield
        finally:
            for masters in self._masters:
                masters.to_host()

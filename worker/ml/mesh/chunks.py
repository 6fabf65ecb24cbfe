"""How many points of a field are asked for at a time, and the event that says one chunk of them is done."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.ml import memory

_HOST_BYTES = 2**27
"""On the host, more makes nothing faster, and a stop waits for a chunk."""
_DEVICE_BYTES = 2**30
_FREE_SHARE = 0.5
"""Of the device's free memory, at most."""


@dataclass(frozen=True)
class Chunk:
    """A chunk of a stage was done."""

    done: int
    """From 1 to `total`, in units of the stage's own."""
    total: int


def points_at_once(device: torch.device, bytes_per_point: int) -> int:
    """Return how many points a chunk may have on this device, at least 1."""
    free = memory.free_device_bytes(device)
    allowed = _HOST_BYTES if free is None else min(_DEVICE_BYTES, int(free * _FREE_SHARE))
    return max(1, allowed // bytes_per_point)

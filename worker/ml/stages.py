"""What each stage of a piece of work costs: seconds, and the most memory that was in use during it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to clear_refs, it sets the peak of the resident memory to its present size: proc(5)."""


@dataclass
class StageFigures:
    """One stage. Seconds count from its beginning to its end, whoever worked in between."""

    name: str
    seconds: float = 0.0
    host_bytes: int | None = None
    """The most that this process held; None where the system does not tell."""
    device_bytes: int | None = None
    """The most that torch had allocated on the GPU; None without one."""


@contextmanager
def measured(name: str, device: torch.device) -> Iterator[StageFigures]:
    """Measure a stage: its figures are complete when the context ends."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)
    figures = StageFigures(name)
    began = time.monotonic()
    yield figures
    if on_gpu:
        torch.cuda.synchronize(device)  # kernels run on after they were launched
        figures.device_bytes = torch.cuda.max_memory_allocated(device)
    figures.seconds = time.monotonic() - began
    figures.host_bytes = _peak_bytes()


def _peak_bytes() -> int | None:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None

"""Time, memory of the device and memory of the host, as the lines give them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import torch

from worker.ml import memory
from worker.ml.draw.generate import Picture
from worker.ml.memory import GIB, Plan
from worker.ml.models import Base
from worker.ml.protocol import Pixels

Result = TypeVar("Result")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what the work returns, and how many seconds it took until the device was done."""
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - began


@dataclass(frozen=True)
class Watermark:
    """The most memory that torch took on the device since this was made. A CPU has none: its figures are None."""

    device: torch.device
    before_bytes: int

    @classmethod
    def start(cls, device: torch.device) -> Watermark:
        if device.type != "cuda":
            return cls(device, 0)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return cls(device, torch.cuda.memory_allocated(device))

    def figures(self, estimate_bytes: int) -> dict[str, float | None]:
        """Return the peak, what of it was not there at the start, and beside that the project's own estimate."""
        figures = dict.fromkeys(("before_gib", "peak_allocated_gib", "peak_reserved_gib", "working_gib"))
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            figures = {
                "before_gib": gib(self.before_bytes),
                "peak_allocated_gib": gib(peak),
                "peak_reserved_gib": gib(torch.cuda.max_memory_reserved(self.device)),
                "working_gib": gib(peak - self.before_bytes),
            }
        return figures | {"working_estimate_gib": gib(estimate_bytes)}


@contextmanager
def reported_free(free_bytes: Callable[[], int]) -> Iterator[None]:
    """Let plans believe, inside the block, that so much of the device is free, and that it does not share the host's.

    A CPU then plans and moves parts as a device with memory of its own.
    """

    def free_and_total(device: object = None) -> tuple[int, int]:
        return free_bytes(), free_bytes()

    with patch.object(torch.cuda, "mem_get_info", free_and_total), patch.object(memory, "shares_host", lambda _: False):
        yield


@contextmanager
def device_limited_to(device: torch.device, limit_bytes: int) -> Iterator[None]:
    """Let torch allocate no more than this on the device inside the block, and plans know of no more.

    CUDA's context and libraries, which a smaller card holds too, are not counted. On a CPU nothing is enforced.
    """
    if device.type != "cuda":
        with reported_free(lambda: limit_bytes):
            yield
        return
    torch.cuda.empty_cache()
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total_bytes), device)
    try:
        with reported_free(lambda: limit_bytes - torch.cuda.memory_reserved(device)):
            yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def host_memory() -> dict[str, float]:
    """Return this process's memory: anonymous, and of mapped files, whose pages the system can take back."""
    status = Path("/proc/self/status").read_text("ascii")
    pages = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in status.splitlines())
        if name in ("RssAnon", "RssFile")
    }
    return {"rss_anon_gib": gib(pages["RssAnon"] * 1024), "rss_file_gib": gib(pages["RssFile"] * 1024)}


def gib(count: float) -> float:
    """Return bytes in GiB, to a thousandth; tiny models need more digits."""
    return round(count / GIB, 3 if count >= GIB / 10 else 6)


def ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def rms(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def drained(work: Any) -> Any:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def plan_of(base: Base, drawing: Iterable[object]) -> str:
    """Return a drawing's memory plan in words."""
    return next(event.describe(base.computes_in) for event in drawing if isinstance(event, Plan))


def pixels_of(drawing: Iterable[object]) -> Pixels:
    """Return the pixels of a drawing's last picture."""
    *_, pixels = (event.pixels for event in drawing if isinstance(event, Picture))
    return pixels

"""What torch's profiler saw: how busy the GPU was, its attention kernel, and what the CPU waited for."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile

from tools.gpu_check.measure import ms, synchronize
from tools.gpu_check.runner import Figures

_ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}
_CALLS = {"cuda_runtime", "cuda_driver"}
_ATTENTION = re.compile("sdpa|flash|fmha|attention", re.IGNORECASE)
_WAITS = re.compile(r"Synchronize|^cudaMemcpy$")
_QUEUE_FULL_US = 1000
"""A launch takes some microseconds. One that takes this long waits for room in the GPU's queue."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """A block's events, as in a trace file for Chrome: `cat`, `name`, `ts` (begin) and `dur`, both in microseconds."""

    seconds: float
    events: Sequence[Event]

    @property
    def busy_share(self) -> float | None:
        """Return the share of the block in which the GPU did anything; None on a CPU."""
        busy_us = until = 0.0
        for event in self._of(_ON_GPU):
            end = event["ts"] + event["dur"]
            busy_us += max(0.0, end - max(event["ts"], until))
            until = max(until, end)
        return round(busy_us / 1e6 / self.seconds, 3) if busy_us else None

    @property
    def attention_kernel(self) -> str | None:
        """Return the attention kernel that took longest; on a CPU, the operator."""
        total: dict[str, float] = defaultdict(float)
        for event in self._of({"kernel"}) or self._of({"cpu_op"}):
            if _ATTENTION.search(event["name"]):
                total[event["name"]] += event["dur"]
        return max(total, key=total.__getitem__)[:200] if total else None

    def cpu_figures(self, steps: int) -> Figures:
        """Return, a step, how often the CPU waited for the GPU, and the time in which it did not; None on a CPU."""
        calls = self._of(_CALLS)
        while calls and calls[-1]["name"] == "cudaDeviceSynchronize":  # of the end of the recording
            calls.pop()
        if not calls:
            return {"synchronisations_a_step": None, "cpu_launch_ms_a_step": None}
        waits = [call for call in calls if _WAITS.search(call["name"])]
        full = [call for call in calls if "Launch" in call["name"] and call["dur"] > _QUEUE_FULL_US]
        waiting_s = sum(call["dur"] for call in (*waits, *full)) / 1e6
        return {
            "synchronisations_a_step": round(len(waits) / steps, 1),
            "cpu_launch_ms_a_step": ms((self.seconds - waiting_s) / steps),
        }

    def _of(self, categories: set[str]) -> list[Event]:
        """Return the events of these categories in the order of their beginnings."""
        return sorted((event for event in self.events if event.get("cat") in categories), key=lambda event: event["ts"])


class Recording:
    """Records the trace of a block. On a GPU, only what CUDA reports: a microsecond or two of the CPU's a launch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile = profile(activities=[ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU])
        self.trace = Trace(0.0, ())

    def __enter__(self) -> Self:
        synchronize(self._device)
        self._profile.start()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        synchronize(self._device)
        seconds = time.perf_counter() - self._began
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(path))
            events = json.loads(path.read_text("utf-8"))["traceEvents"]
        self.trace = Trace(seconds, [event for event in events if event.get("ph") == "X"])  # those that last

"""Checks that go wrong, and a bench that needs no torch, for `test_gpu_check.py`."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from tools.gpu_check.runner import CheckFailed


class LightBench:
    """Its device has the same name in every process."""

    def describe(self) -> dict[str, Any]:
        return {"ok": True, "device": "a device"}


class LostBench:
    """Its device is found by the first process only."""

    def __init__(self, found_before: Path) -> None:
        self._device = "cpu" if found_before.exists() else "a GPU"
        found_before.touch()

    def describe(self) -> dict[str, Any]:
        return {"ok": True, "device": self._device}


def no_bench() -> LightBench:
    raise ImportError("No module named 'diffusers'")


def fine(bench: LightBench) -> dict[str, Any]:
    return {"pid": os.getpid()}


def not_finite(bench: LightBench) -> dict[str, Any]:
    return {"loss": math.nan}


def not_so(bench: LightBench) -> dict[str, Any]:
    raise CheckFailed("the picture is blank", {"share": 0.5})


def mistaken(bench: LightBench) -> dict[str, Any]:
    raise KeyError("speed")


def broken_device(bench: LightBench) -> dict[str, Any]:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def slow(bench: LightBench) -> dict[str, Any]:
    time.sleep(60)
    return {}


def deaf(bench: LightBench) -> dict[str, Any]:
    """Hang as a call of the driver does, which no exception reaches."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)
    return {}


def crash(bench: LightBench) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}

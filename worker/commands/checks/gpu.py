"""The GPU as the worker's own GPU process finds it, and the driver as nvidia-smi reports it."""

from __future__ import annotations

import asyncio
import csv
import shutil
from dataclasses import dataclass
from importlib.util import find_spec

from worker.commands.checks.report import CheckWarning, Report
from worker.errors import SettingsError
from worker.gpu.process import GpuChild

DRIVER_FLOOR = 580
"""PyTorch's wheels contain CUDA 13 (as the Dockerfile says), which needs this driver."""
IMPORTS_DEADLINE_S = 180.0
"""The GPU process imports its libraries first: seconds, minutes from a cold network volume."""


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi. Not its memory, which is "[N/A]" on machines that share the host's."""

    name: str
    driver: str


class GpuCheck:
    """The check and its result: `free_vram_gib` is None on a CPU, `usable` is False if nothing can compute here."""

    def __init__(self) -> None:
        self.free_vram_gib: float | None = None
        self.usable = False

    async def make(self, report: Report) -> None:
        """One line, and one more on a GPU; imports torch in a process of its own, as `worker run` does."""
        self.usable = await report.check("GPU", self._find(), IMPORTS_DEADLINE_S)
        if self.free_vram_gib is not None:
            await report.check("nf4", check_nf4())

    async def _find(self) -> str:
        gpus = await _nvidia_smi()
        child = GpuChild()
        try:
            ready = await child.start()
        finally:
            await child.stop()
        self.free_vram_gib = ready.free_vram_gib
        if ready.vram_gib is not None:
            driver = f", driver {gpus[0].driver}" if gpus else ""
            return f"{ready.device}, {ready.free_vram_gib:.2f} of {ready.vram_gib:.2f} GiB free{driver}"
        if not gpus:
            raise CheckWarning(
                "none: this machine runs only base models that need no GPU memory",
                "on a GPU pod, start the container with --gpus all and the NVIDIA container toolkit",
            )
        gpu = gpus[0]
        if int(gpu.driver.split(".")[0]) < DRIVER_FLOOR:
            raise SettingsError(
                f"{gpu.name}: unsupported by torch, its driver {gpu.driver} is older than {DRIVER_FLOOR}",
                f"update the host's driver, or rent a pod with {DRIVER_FLOOR} or newer (CUDA 13)",
            )
        raise SettingsError(
            f"nvidia-smi shows {gpu.name} with driver {gpu.driver}, but torch finds no GPU",
            "check CUDA_VISIBLE_DEVICES, and install torch with CUDA: pip install torch",
        )


async def check_nf4() -> str:
    """Check that denoisers can be quantised to 4 bits, on which the figures of memory of base models count."""
    if find_spec("bitsandbytes") is None:
        raise CheckWarning(
            "bitsandbytes is not installed: base models need more GPU memory than min_vram_gib says",
            "pip install 'likeness-worker[gpu]'",
        )
    return "bitsandbytes quantises base models that would not fit"


async def _nvidia_smi() -> list[Gpu]:
    """Return the GPUs of this machine, whether or not torch can use them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    process = await asyncio.create_subprocess_exec(
        program,
        "--query-gpu=name,driver_version",
        "--format=csv,noheader,nounits",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    listed, _ = await process.communicate()
    if process.returncode != 0:
        raise SettingsError(
            f"nvidia-smi failed with exit code {process.returncode}: the driver is not loaded, or the GPU is lost",
            "run nvidia-smi by hand; restart the host or rent another pod",
        )
    rows = csv.reader(listed.decode().splitlines(), skipinitialspace=True)
    return [Gpu(name, driver) for name, driver in rows]

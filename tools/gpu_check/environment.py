"""The environment of the processes that perform checks: that of the worker's GPU process."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.gpu_check.bench import Bench


def open_bench(folder: Path, tiny: bool) -> Bench:
    """Set the environment, import torch in it, and look at the device."""
    from worker.gpu.process import child_environment

    os.environ.update(child_environment())
    gc.disable()  # a sixth of the time of the imports, which leave nothing to collect
    from tools.gpu_check.bench import Bench

    gc.enable()
    if tiny:
        from worker.ml.train import runaway

        runaway.PHOTOS = runaway.DRAWS = 1  # measuring would take longer than so few steps
    return Bench(folder, tiny)

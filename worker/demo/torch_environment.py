"""The environment of the demo's processes that compute."""

from __future__ import annotations

from pathlib import Path

TORCH_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""The demo is the same everywhere: no GPU; and threads that wait leave the core to the other processes."""


def torch_environment(scratch: Path) -> dict[str, str]:
    """For a process whose files go with `scratch`: torch makes a folder for kernels even when it compiles none."""
    return TORCH_ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor")}

"""The environment of the demo's processes that use torch."""

from __future__ import annotations

from pathlib import Path

TORCH_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""No GPU, so that the demo is the same everywhere; and waiting threads leave the core to the other processes."""


def torch_environment(scratch: Path) -> dict[str, str]:
    """Return the environment for a process whose files are deleted with `scratch`.

    torch creates a folder for compiled kernels even if it compiles none.
    """
    return TORCH_ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor")}

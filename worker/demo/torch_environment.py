"""The environment of the demo's processes that compute."""

from __future__ import annotations

TORCH_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""The demo is the same everywhere: no GPU; and threads that wait leave the core to the other processes."""

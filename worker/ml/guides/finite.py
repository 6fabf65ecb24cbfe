"""The check of a guide's weights when it is loaded, the same for every sort of guide."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from worker.ml.errors import ModelUnreadable


def check_finite(name: str, modules: Iterable[torch.nn.Module], dtype: torch.dtype) -> None:
    """Raise ModelUnreadable for weights that are not finite, also where they leave the range of the precision."""
    if not all(weights.isfinite().all() for module in modules for weights in module.parameters()):
        raise ModelUnreadable(f"{name} holds weights that are not finite in {str(dtype).removeprefix('torch.')}")

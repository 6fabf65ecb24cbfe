"""The packages of the extra `mesh`, imported at first use: the worker runs without them."""

from __future__ import annotations

import importlib
from typing import Any

from worker.ml.errors import PackageMissing


def imported(module: str) -> Any:
    """Return a module. Raises PackageMissing if its package is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise PackageMissing(f"the package {package} is not installed: it comes with the extra mesh") from error

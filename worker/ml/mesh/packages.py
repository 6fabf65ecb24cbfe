"""The packages of the extra `mesh`, imported at first use: the worker runs without them."""

from __future__ import annotations

import importlib
from typing import Any

from worker.ml.errors import PackageMissing


def imported(module: str) -> Any:
    """Return a module. Raises PackageMissing with the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise PackageMissing(
            f"making a mesh needs the package {package}, which is not installed (the extra mesh)"
        ) from error

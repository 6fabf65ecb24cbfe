"""Lets the package basicsr be imported beside a current torchvision.

basicsr 1.4.2, of 2022, on which realesrgan is built, imports `rgb_to_grayscale` from
`torchvision.transforms.functional_tensor`. torchvision 0.17 removed that module; the function is in
`torchvision.transforms.functional`. basicsr needs nothing else of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torchvision.transforms import functional

REMOVED = "torchvision.transforms.functional_tensor"


@contextmanager
def functional_tensor() -> Iterator[None]:
    """Let imports inside the block find the removed module; afterwards it is as unknown as before."""
    module = ModuleType(REMOVED)
    vars(module)["rgb_to_grayscale"] = functional.rgb_to_grayscale
    sys.modules[REMOVED] = module
    try:
        yield
    finally:
        del sys.modules[REMOVED]

"""Errors in what `ml` is given, and how to recognise that memory ran out."""

from __future__ import annotations

import errno
import re

import torch

_OUT_OF_MEMORY = re.compile(
    "out of memory"  # CUDA's runtime and driver
    "|_ALLOC(ATION)?_FAILED"  # cuBLAS, cuDNN 8 and 9, cuSOLVER, cuFFT: they allocate memory of their own
    "|allocate memory"  # torch on the CPU, and the system's words for ENOMEM
)


class ModelUnreadable(ValueError):
    """A base model, LoRA, checkpoint or upscaler file is missing, damaged, or of the wrong kind."""


class PackageMissing(ModelUnreadable):
    """A base model needs a Python package that is not installed here."""


class BadInput(ValueError):
    """A photo or a setting of the request cannot be used."""


class PrecisionUnsupported(RuntimeError):
    """This device lacks the precision that the work needs; another pod's may have it."""


class NotFinite(PrecisionUnsupported):
    """A base, guide or upscaler gives numbers that are not finite, in the precision that this device computes in."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the error says that the device's or the host's memory ran out.

    Only torch's own allocator raises OutOfMemoryError. Where another library asks CUDA for memory, the same arrives as
    an AcceleratorError or a plain RuntimeError, which only its text tells from others.
    """
    match error:
        case torch.OutOfMemoryError() | MemoryError():
            return True
        case OSError():
            return error.errno == errno.ENOMEM
        case RuntimeError():
            return _OUT_OF_MEMORY.search(str(error)) is not None
        case _:
            return False

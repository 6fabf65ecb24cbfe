"""Errors in what `ml` is given. Out of memory remains torch's own `OutOfMemoryError`."""

from __future__ import annotations


class ModelUnreadable(ValueError):
    """A base model, LoRA, checkpoint or upscaler file is missing, damaged, or of the wrong kind."""


class BadInput(ValueError):
    """A photo or a setting of the request cannot be used."""


class PrecisionUnsupported(RuntimeError):
    """This device lacks the precision that the work needs; another pod's may have it."""


class NotFinite(PrecisionUnsupported):
    """The denoiser's numbers left the range of the precision that this device computes in."""

"""Real-ESRGAN: loads the official weights for one of two back ends."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from worker.ml.errors import ModelUnreadable, is_out_of_memory
from worker.ml.networks.upscaler import Upscaler

BACKENDS = {
    "spandrel": "worker.ml.networks.spandrel_backend",
    "realesrgan": "worker.ml.networks.realesrgan_backend",
}
"""Modules by the package that runs the network. Imported at first use, since realesrgan is an extra."""


def load(
    path: Path, backend: str = "spandrel", *, device: str | None = None, dtype: torch.dtype | None = None
) -> Upscaler:
    """Load Real-ESRGAN x2 or x4 weights; by default on a GPU if there is one, and there in float16.

    Raises ModelUnreadable: not a safetensors file, damaged, or another kind of network; and ImportError if the back
    end's package cannot be imported.
    """
    if path.suffix != ".safetensors":
        raise ModelUnreadable(f"{path.name}: unsupported file type, only .safetensors files are loaded")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    module = importlib.import_module(BACKENDS[backend])
    try:
        upscaler: Upscaler = module.load(path, place, dtype)
    except ModelUnreadable:
        raise
    except (ImportError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # for shapes that it does not expect, a back end raises anything: AttributeError …
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(f"{path} is not an upscaler that {backend} can read: {error}") from error
    return upscaler

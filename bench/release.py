"""The GPU half by its names in this release; where those are missing, in the release before (see `trees`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BEFORE = importlib.util.find_spec("worker.ml.models") is None

if BEFORE:
    from worker.ml import base_models as models
    from worker.ml import batches, single_files, train_lora
    from worker.ml import generate as drawing
    from worker.ml.architectures import flux
    from worker.ml.architectures.architecture import Text as Prompt
else:
    from worker.ml import memory, models
    from worker.ml.draw import generate as drawing
    from worker.ml.families import flux1 as flux
    from worker.ml.families import single_files
    from worker.ml.families.conditions import PooledTokens as Prompt
    from worker.ml.quantise.forms import Forms
    from worker.ml.train import batches, train_lora

Flux, LoraUse, Photo, PictureRequest = flux.Flux, drawing.LoraUse, batches.Photo, drawing.PictureRequest

__all__ = [
    "BEFORE",
    "Flux",
    "LoraUse",
    "Photo",
    "PictureRequest",
    "Prompt",
    "draw",
    "models",
    "parts_take_turns",
    "single_files",
    "training",
]


def parts_take_turns(free_bytes: int = 0) -> None:
    """Treat the CPU as a device with memory of its own, of which so many bytes are free."""
    if BEFORE:
        models._free_gib = lambda _: free_bytes / 2**30
    else:
        memory.shares_host = lambda _: False
        memory.free_device_bytes = lambda _: free_bytes
        Forms.offered = lambda self, _: [memory.PLAIN]  # what does not fit is moved, not quantised


def draw(base: Any, request: PictureRequest) -> list[Any]:
    """Return the pixels of a request's pictures."""
    return [event.pixels for event in drawing.generate(base, request) if isinstance(event, drawing.Picture)]


def training(base: Any, photos: Sequence[Photo], workdir: Path, resolution: int, **settings: Any) -> Iterator[Any]:
    """Train a LoRA with these settings, write it to `lora.safetensors`, and yield what it reports."""
    if hasattr(train_lora, "Run"):
        config = train_lora.LoraConfig(resolutions=(resolution,), **settings)
        return train_lora.train(base, photos, config, train_lora.Run(workdir))
    config = train_lora.LoraConfig(resolution=resolution, **settings)
    return train_lora.train(base, photos, config, workdir=workdir, metadata={})

"""Base models in memory: loading a folder, moving its parts to the device and back, and keeping bases loaded.

Nothing here asks a hub: a base is a folder on disk, and a missing one is an error.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from worker.ml.errors import ModelUnreadable
from worker.ml.families import architecture_of
from worker.ml.protocol import Architecture, Parts

_GIB = 2**30


@dataclass(frozen=True)
class Base:
    """A loaded base model. Its parts move between device and host memory; their weights never change."""

    folder: Path
    family: str
    architecture: Architecture
    parts: Parts
    device: torch.device
    dtype: torch.dtype
    offloaded: bool
    memory_plan: str

    def place(self, *names: str, alone: bool = False) -> None:
        """Move these parts to the device. With an offloaded plan, or `alone`, the others move to host memory."""
        modules = self.architecture.modules(self.parts)
        if alone or self.offloaded:
            for name, module in modules.items():
                if name not in names:
                    module.to("cpu")
        for name in names:
            modules[name].to(self.device)

    def to_host(self) -> None:
        """Move all parts to host memory."""
        for module in self.architecture.modules(self.parts).values():
            module.to("cpu")


class Resident:
    """Keeps bases loaded: one on the device, the others in host memory. The least recently used one is dropped."""

    def __init__(self, device: str | None = None, max_bases: int = 2) -> None:
        self._device = device
        self._max_bases = max_bases
        self._bases: OrderedDict[Path, Base] = OrderedDict()

    def get(self, folder: Path) -> Base:
        """Return the base of this folder, loading it if needed. Raises ModelUnreadable."""
        folder = folder.resolve()
        for other, base in self._bases.items():
            if other != folder:
                base.to_host()
        if folder not in self._bases:
            while len(self._bases) >= self._max_bases:
                self._bases.popitem(last=False)
            self._bases[folder] = load(folder, self._device)
        self._bases.move_to_end(folder)
        return self._bases[folder]


def load(folder: Path, device: str | None = None) -> Base:
    """Load a base for the device (CUDA if available), in bfloat16 on a GPU that supports it, else in float32.

    Raises ModelUnreadable, naming the folder, if it is missing, damaged, or of an unknown family.
    """
    # Warnings of both quote the part of a prompt that an encoder cuts off, and prompts must not reach a log.
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()

    architecture = architecture_of(folder)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    try:
        _check_complete(folder, architecture.not_loaded)
        parts = architecture.load(folder, dtype)
    except (ModelUnreadable, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelUnreadable(f"{folder} is an incomplete or damaged base model: {error}") from error
    modules = architecture.modules(parts)
    for module in modules.values():
        module.requires_grad_(False).eval()
    offloaded, plan = plan_memory(
        {name: _size_gib(module) for name, module in modules.items()},
        architecture.working_gib,
        _free_gib(place),
        f"{place.type}, {str(dtype).removeprefix('torch.')}",
    )
    return Base(folder, architecture.family, architecture, parts, place, dtype, offloaded, plan)


def plan_memory(
    part_gib: Mapping[str, float], working_gib: float, free_gib: float | None, device: str
) -> tuple[bool, str]:
    """Return True if the parts must take turns on the device, and the plan in words with its estimate.

    `free_gib` is None where the device shares the host's memory.
    """
    if free_gib is None:
        return False, f"full, {device}"
    together = sum(part_gib.values()) + working_gib
    if together <= free_gib:
        return False, f"full, {device}: needs {together:.1f} of {free_gib:.1f} GiB free"
    largest = max(part_gib.values()) + working_gib
    fits = "needs" if largest <= free_gib else "may not fit: needs"
    return True, f"offloaded, {device}: {fits} {largest:.1f} of {free_gib:.1f} GiB free"


def _check_complete(folder: Path, not_loaded: Collection[str]) -> None:
    """Raise ModelUnreadable unless every part that the index names has a folder.

    For a missing one, transformers would make up an empty tokenizer.
    """
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    for name, kind in index.items():
        needed = isinstance(kind, list) and None not in kind and name not in not_loaded
        if needed and not (folder / name).is_dir():
            raise ModelUnreadable(f"{folder} is an incomplete base model: {name} is missing")


def _size_gib(module: torch.nn.Module) -> float:
    return sum(weights.numel() * weights.element_size() for weights in module.parameters()) / _GIB


def _free_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # memory that this process caches but does not use is free too
    return torch.cuda.mem_get_info(device)[0] / _GIB

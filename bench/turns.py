"""Bases that take turns in a process of their own: its memory after each turn, a JSON line each.

    python -m bench.turns ROUNDS FOLDER…

No GPU is needed: the CPU stands in for the device. Copies there are memory of this process too, which they would not be
on a GPU, so their size is subtracted.
"""

from __future__ import annotations

import json
import re
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.release import BEFORE, PictureRequest, draw, parts_take_turns
from worker.gpu.models import Models

REQUEST = PictureRequest("a photo", None, width=64, height=64, steps=2, guidance=2.0, seed=1, num_images=2)


class Device:
    """What is on the device that the CPU stands in for."""

    def __init__(self) -> None:
        self._bases: weakref.WeakSet[Any] = weakref.WeakSet()
        self._there: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        parts_take_turns()
        if BEFORE:
            self._copy_in_module_to()

    def watch(self, base: Any) -> None:
        self._bases.add(base)

    @property
    def bases(self) -> int:
        """The number of bases that exist, whoever holds them."""
        return len(self._bases)

    @property
    def nbytes(self) -> int:
        if BEFORE:
            return sum(tensor.nbytes for module in self._there for tensor in _tensors(module))
        return sum(part.nbytes for base in self._bases for part in base._parts.values() if part.on_device)

    def _copy_in_module_to(self) -> None:
        """Let `Module.to` copy as it does between a GPU and the host: what comes back is new anonymous memory."""
        real = torch.nn.Module.to

        def to(module: torch.nn.Module, *arguments: Any, **options: Any) -> torch.nn.Module:
            if options or len(arguments) != 1 or not isinstance(arguments[0], str | torch.device):
                return real(module, *arguments, **options)
            there = isinstance(arguments[0], torch.device)  # the base's device; the host is "cpu"
            if there != (module in self._there):
                for tensor in _tensors(module):
                    tensor.data = tensor.data.clone()
                (self._there.add if there else self._there.remove)(module)
            return module

        torch.nn.Module.to = to


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def main(rounds: int, folders: list[Path]) -> None:
    device, models = Device(), Models()
    _report("start", device)
    for turn in range(rounds):
        for folder in folders:
            base = models.base(folder)
            device.watch(base)
            draw(base, REQUEST)
            del base
            _report(f"{folder.name}, turn {turn + 1}", device)


def _report(after: str, device: Device) -> None:
    status = Path("/proc/self/status").read_text("utf-8")
    anonymous, mapped = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("RssAnon", "RssFile"))
    measured = {"after": after, "anonymous": anonymous - device.nbytes, "on_device": device.nbytes, "mapped": mapped}
    print(json.dumps(measured | {"bases": device.bases}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])

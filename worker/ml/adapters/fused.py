"""A LoRA of one layer that the denoiser has as several: query, key and value of one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


class Rows(torch.nn.Module):
    """The B of one of the layers: some rows of the whole (out, rank)."""

    def __init__(self, whole: torch.nn.Parameter, first: int, count: int) -> None:
        super().__init__()
        self.whole, self._first, self._count = whole, first, count

    @property
    def weight(self) -> torch.Tensor:
        return self.whole[self._first : self._first + self._count]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


def fuse(denoiser: Any, layers: Sequence[str], parameters: dict[str, torch.nn.Parameter]) -> None:
    """Make the new LoRAs of these layers that of one whose outputs are theirs, one below the other, with one A.

    In `parameters`, as `attach.new_lora` yields them, the first layer's pair becomes that of the whole, and the others'
    are removed.
    """
    first, *others = layers
    heights = [len(parameters[f"{layer}.lora_B.weight"]) for layer in layers]
    a = parameters[f"{first}.lora_A.weight"]
    b = torch.nn.Parameter(torch.cat([parameters[f"{layer}.lora_B.weight"].data for layer in layers]))
    start = 0
    for layer, height in zip(layers, heights, strict=True):
        own = denoiser.get_submodule(layer)
        own.lora_A["new"].weight = a
        own.lora_B["new"] = Rows(b, start, height)
        start += height
    parameters[f"{first}.lora_B.weight"] = b
    for layer in others:
        del parameters[f"{layer}.lora_A.weight"], parameters[f"{layer}.lora_B.weight"]

"""How a family's LoRA files name its layers, in diffusers' naming and in kohya's, and the conversion between the two.

kohya's names (sd-scripts) are those of each family's original code with underscores for dots. Splitting them again
is ambiguous (`to_out_0`), so a family brings one table with both. Where the original code fuses layers that diffusers
has apart (query, key and value), their LoRAs are fused too: factors A stacked, factors B on a block diagonal, the rank
that many times larger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from worker.ml.errors import ModelUnreadable

Naming = Literal["diffusers", "kohya"]

SIDES: Mapping[Naming, tuple[str, str]] = {
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
}
"""What follows a layer's name in the keys of its two factors."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""The two factors of a layer's LoRA, A (rank, in) and B (out, rank), such that B·A is added to its weights."""

Shape = tuple[int, ...]
"""A layer's input and output features, and the size of its kernel if it is a convolution."""


def shape_of(pair: Pair) -> Shape:
    """Return the shape of the layer that this pair belongs to."""
    a, b = pair
    return a.shape[1], b.shape[0], *a.shape[2:]


@dataclass(frozen=True)
class Module:
    """One kind of layer in both namings; `{}` is a number.

    Only the proportion of its sizes counts, because models of a family differ in width: three inputs and outputs of
    3, 1 and 1 are the fused attention layer of a model in which three queries share a key and a value.
    """

    kohya: str
    diffusers: tuple[str, ...]  # several where kohya's layer fuses them, in the order of their rows
    inputs: int = 1
    outputs: tuple[int, ...] = (1,)  # of each of them
    kernel: Shape = ()
    max_text_width: int | None = None  # of a layer that reads text instead of hidden states

    def names(self) -> Iterator[tuple[str, int]]:
        """Yield its names in both namings, each with the outputs of the layer so named."""
        yield self.kohya, sum(self.outputs)
        yield from zip(self.diffusers, self.outputs, strict=True)

    def rows(self, inputs: int) -> list[int]:
        """Return the outputs of each of diffusers' layers, of one with this many inputs."""
        return [outputs * inputs // self.inputs for outputs in self.outputs]


@dataclass(frozen=True)
class Layer:
    """One layer of a family, found by its name in either naming."""

    module: Module
    numbers: tuple[str, ...]
    outputs: int

    @property
    def kohya(self) -> str:
        return self.module.kohya.format(*self.numbers)

    @property
    def diffusers(self) -> list[str]:
        return [name.format(*self.numbers) for name in self.module.diffusers]

    def has_shape(self, shape: Shape) -> bool:
        """Return True if the family's layer can have this shape, at any width of the hidden states."""
        inputs, outputs, *kernel = shape
        if tuple(kernel) != self.module.kernel:
            return False
        if self.module.max_text_width is not None:
            return inputs <= self.module.max_text_width
        return inputs * self.outputs == outputs * self.module.inputs


@dataclass(frozen=True)
class LoraNames:
    """What is a family's own in a LoRA file."""

    family: str
    naming: Naming
    """How its files are written, and the only naming that can be drawn with."""
    network_module: str
    """What sd-scripts' metadata calls the program that makes such files."""
    prefix: str
    """What diffusers' names have before the denoiser's own."""
    modules: tuple[Module, ...]
    marks: tuple[str, ...] = ("",)
    """Beginnings of names that tell the family; the names of its other layers exist in other families too."""
    unlisted: tuple[str, ...] = ()
    """Beginnings of the names of layers that LoRAs may have besides `modules`. They are not converted."""

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Module, int]]:
        return [
            (re.compile(re.escape(name).replace(r"\{\}", r"(\d+)")), module, outputs)
            for module in self.modules
            for name, outputs in module.names()
        ]

    def find(self, layer: str) -> Layer | None:
        """Return the layer of this name, in either naming; None if `modules` lacks it."""
        for pattern, module, outputs in self._patterns:
            match = pattern.fullmatch(layer)
            if match:
                return Layer(module, match.groups(), outputs)
        return None

    def known(self, layer: str) -> Layer:
        """Return the layer as `find` does. Raises ModelUnreadable for an unknown one."""
        found = self.find(layer)
        if found is None:
            raise ModelUnreadable(f"layer {layer} does not exist in the other naming")
        return found

    def has(self, layer: str, shape: Shape) -> bool:
        """Return True if the family has a layer of this name, in either naming, that can have this shape."""
        found = self.find(layer)
        return layer.startswith(self.unlisted) if found is None else found.has_shape(shape)

    def claims(self, layers: Mapping[str, Shape]) -> bool:
        """Return True if a file with these layers is a LoRA of this family: it has all of them, and one is a mark."""
        return any(layer.startswith(self.marks) for layer in layers) and all(
            self.has(layer, shape) for layer, shape in layers.items()
        )

    def key(self, parameter: str) -> str:
        """Return the key in a file of a LoRA's parameter on the denoiser, such as `block.to_q.lora_A.weight`.

        Raises ModelUnreadable if `modules` lacks the layer and the naming is kohya's.
        """
        name = f"{self.prefix}{parameter}"
        if self.naming == "diffusers":
            return name
        sides = dict(zip(SIDES["diffusers"], SIDES["kohya"], strict=True))
        side = next(side for side in sides if name.endswith(side))
        return f"{self.known(name.removesuffix(f'.{side}')).kohya}.{sides[side]}"

    def to_kohya(self, layers: Mapping[str, Pair]) -> dict[str, Pair]:
        """Convert layers from diffusers' names. Raises ModelUnreadable for a layer that cannot be converted."""
        fused: dict[str, Layer] = {}
        for name in layers:
            layer = self.known(name)
            fused[layer.kohya] = layer
        return {name: _fuse(layer, [layers.get(part) for part in layer.diffusers]) for name, layer in fused.items()}

    def to_diffusers(self, layers: Mapping[str, Pair]) -> dict[str, Pair]:
        """Convert layers that the family claims from kohya's names. Raises ModelUnreadable for one that it cannot."""
        split: dict[str, Pair] = {}
        for name, (a, b) in layers.items():
            layer = self.known(name)
            if len(layer.diffusers) == 1:
                split[layer.diffusers[0]] = (a, b)
                continue
            for part, part_b in zip(layer.diffusers, torch.split(b, layer.module.rows(a.shape[1])), strict=True):
                if part_b.any():  # all zeros mean that the part was not trained
                    split[part] = (a.clone(), part_b.clone())
        return split


def _fuse(layer: Layer, pairs: Sequence[Pair | None]) -> Pair:
    """Return one pair that does what these do side by side; a missing part adds nothing to its rows."""
    if len(pairs) == 1 and pairs[0] is not None:
        return pairs[0]
    present = [pair for pair in pairs if pair is not None]
    inputs = present[0][0].shape[1]
    for name, pair in zip(layer.diffusers, pairs, strict=True):
        if pair is not None and pair[0].shape[1] != inputs:
            raise ModelUnreadable(
                f"{name} is {pair[0].shape[1]} to {len(pair[1])}, which cannot be fused with the others"
            )
    heights = layer.module.rows(inputs)
    stacked = torch.cat([a for a, _ in present])
    diagonal = torch.zeros(sum(heights), len(stacked), dtype=stacked.dtype)
    row = column = 0
    for height, pair in zip(heights, pairs, strict=True):
        if pair is not None:
            rank = len(pair[0])
            diagonal[row : row + height, column : column + rank] = pair[1]
            column += rank
        row += height
    return stacked, diagonal

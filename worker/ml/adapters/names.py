"""How a family's LoRA files name its layers, and the conversion to diffusers' naming and to kohya's.

kohya's names (sd-scripts) are those of each family's original code with underscores for dots. Splitting them again
is ambiguous (`to_out_0`), so a family brings one table with all. ComfyUI's are the same with their dots. What programs
put before and after a layer's name is in `spellings.py`. Where the original code fuses layers that diffusers
has apart (query, key and value), their LoRAs are fused too: factors A stacked, factors B on a block diagonal, the rank
that many times larger, unless they have one A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch

from worker.ml.adapters.spellings import PREFIX
from worker.ml.errors import ModelUnreadable

Naming = Literal["diffusers", "kohya", "ComfyUI"]

SIDES: Mapping[Naming, tuple[str, str]] = {
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "ComfyUI": ("lora_A.weight", "lora_B.weight"),
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
    """One kind of layer in all namings; `{}` is a number.

    Only the proportion of its sizes counts, because models of a family differ in width: three inputs and outputs of
    3, 1 and 1 are the fused attention layer of a model in which three queries share a key and a value.
    """

    kohya: str  # with the dots that kohya's names have as underscores
    diffusers: tuple[str, ...]  # several where kohya's layer fuses them, in the order of their rows
    inputs: int | None = 1  # None where models differ, as at the ends of a model
    outputs: tuple[int, ...] = (1,)  # of each of them
    kernel: Shape = ()
    max_text_width: int | None = None  # of a layer that reads text instead of hidden states
    also: tuple[str, ...] = ()  # its names in other programs, always with dots, with the rows of kohya's layer
    most: int | None = None  # how many there are at most
    swapped: bool = False  # whether the halves of its rows stand in the other order in diffusers

    def rows(self, inputs: int) -> list[int]:
        """Return the outputs of each of diffusers' layers, of one with this many inputs."""
        return [outputs * inputs // (self.inputs or 1) for outputs in self.outputs]


@dataclass(frozen=True)
class Layer:
    """One layer of a family, found by its name in any naming."""

    module: Module
    numbers: tuple[str, ...]
    part: int | None
    """Which of diffusers' layers its name is; None for a name of the whole."""

    @property
    def kohya(self) -> str:
        return f"lora_unet_{self.module.kohya.format(*self.numbers).replace('.', '_')}"

    @property
    def comfyui(self) -> str:
        return f"diffusion_model.{self.module.kohya.format(*self.numbers)}"

    @property
    def diffusers(self) -> list[str]:
        names = [name.format(*self.numbers) for name in self.module.diffusers]
        return names if self.part is None else [names[self.part]]

    def rows(self, inputs: int) -> dict[str, slice]:
        """Return the rows of each of diffusers' layers, by its name, of one with this many inputs."""
        ends = [0, *accumulate(self.module.rows(inputs))]
        return {name: slice(*ends[place : place + 2]) for place, name in enumerate(self.diffusers)}

    def has_shape(self, shape: Shape) -> bool:
        """Return True if the family's layer can have this shape, at any width of the hidden states."""
        module, (inputs, outputs, *kernel) = self.module, shape
        if tuple(kernel) != module.kernel:
            return False
        if module.max_text_width is not None:
            return inputs <= module.max_text_width
        if module.inputs is None:
            return True
        own = sum(module.outputs) if self.part is None else module.outputs[self.part]
        return inputs * own == outputs * module.inputs


@dataclass(frozen=True)
class LoraNames:
    """What is a family's own in a LoRA file."""

    family: str
    naming: Naming
    """How its files are written, and the only naming that can be drawn with. ComfyUI's, only if `modules` have it."""
    network_module: str
    """What sd-scripts' metadata calls the program that makes such files."""
    prefix: str
    """What diffusers' names have before the denoiser's own."""
    modules: tuple[Module, ...]
    read_only: tuple[Module, ...] = ()
    """Kinds of layers that another program's files have, and that are never written."""
    telling: str = ""
    """A pattern that one of a file's layers must have, where all of them may be another family's too."""
    stated: str = r"(?!)"
    """A pattern for what other programs call the family in a file's metadata; nothing, if its layers always tell."""

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Module, int | None]]:
        names: list[tuple[str, Module, int | None]] = []
        for module in (*self.modules, *self.read_only):
            names += [(name, module, part) for part, name in enumerate(module.diffusers) if module in self.modules]
            names += [(module.kohya, module, None)]
        also = [(name, module, None) for module in (*self.modules, *self.read_only) for name in module.also]
        return [
            *((_pattern(name, dot="[._]"), module, part) for name, module, part in names),
            *((_pattern(name, dot=r"\."), module, part) for name, module, part in also),
        ]

    def find(self, layer: str) -> Layer | None:
        """Return the layer of this name, in any naming; None if the family lacks it."""
        for pattern, module, part in self._patterns:
            match = pattern.fullmatch(layer)
            if match and all(int(number) < (module.most or math.inf) for number in match.groups()):
                return Layer(module, match.groups(), part)
        return None

    def known(self, layer: str) -> Layer:
        """Return the layer as `find` does. Raises ModelUnreadable for an unknown one."""
        found = self.find(layer)
        if found is None:
            raise ModelUnreadable(f"layer {layer} does not exist in the other naming")
        return found

    def has(self, layer: str, shape: Shape) -> bool:
        """Return True if the family has a layer of this name, in any naming, that can have this shape."""
        found = self.find(layer)
        return found is not None and found.has_shape(shape)

    def claims(self, layers: Mapping[str, Shape]) -> bool:
        """Return True if a file with these layers is a LoRA of this family: it has all of them, and one that tells."""
        return any(re.search(self.telling, layer) for layer in layers) and all(
            self.has(layer, shape) for layer, shape in layers.items()
        )

    def key(self, parameter: str) -> str:
        """Return the key in a file of a LoRA's parameter on the denoiser, such as `block.to_q.lora_A.weight`.

        Raises ModelUnreadable if `modules` lacks the layer and the naming is not diffusers'.
        """
        name = f"{self.prefix}{parameter}"
        if self.naming == "diffusers":
            return name
        sides = dict(zip(SIDES["diffusers"], SIDES[self.naming], strict=True))
        side = next(side for side in sides if name.endswith(side))
        layer = self.known(name.removesuffix(f".{side}"))
        return f"{layer.kohya if self.naming == 'kohya' else layer.comfyui}.{sides[side]}"

    def to_kohya(self, layers: Mapping[str, Pair]) -> dict[str, Pair]:
        """Convert layers from diffusers' names. Raises ModelUnreadable for a layer that cannot be converted."""
        return self._fused(layers, lambda layer: layer.kohya)

    def to_comfyui(self, layers: Mapping[str, Pair]) -> dict[str, Pair]:
        """Convert layers as `to_kohya` does."""
        return self._fused(layers, lambda layer: layer.comfyui)

    def _fused(self, layers: Mapping[str, Pair], naming: Callable[[Layer], str]) -> dict[str, Pair]:
        fused: dict[str, Layer] = {}
        for name in layers:
            layer = replace(self.known(name), part=None)
            fused[naming(layer)] = layer
        return {
            name: _fuse(layer, [layers.get(f"{self.prefix}{part}") for part in layer.diffusers])
            for name, layer in fused.items()
        }

    def to_diffusers(self, layers: Mapping[str, Pair]) -> dict[str, Pair]:
        """Convert layers that the family claims to diffusers' names, from any. Raises ModelUnreadable: one twice."""
        split: dict[str, Pair] = {}
        for name, pair in layers.items():
            for part, own in _split(self.known(name), pair):
                if f"{self.prefix}{part}" in split:
                    raise ModelUnreadable(f"the file holds {self.prefix}{part} in two namings, the second as {name}")
                split[f"{self.prefix}{part}"] = own
        return split


def _pattern(name: str, dot: str) -> re.Pattern[str]:
    """Return a pattern for a name, with a pattern for its dots."""
    return re.compile(PREFIX + re.escape(name).replace(r"\.", dot).replace(r"\{\}", r"(\d+)"))


def _split(layer: Layer, pair: Pair) -> Iterator[tuple[str, Pair]]:
    """Yield a pair by diffusers' names; parts that were not trained are left out."""
    a, b = pair
    if layer.part is None and layer.module.swapped:
        b = _swap_halves(b)
    if len(layer.diffusers) == 1:
        yield layer.diffusers[0], (a, b)
        return
    for part, rows in layer.rows(a.shape[1]).items():
        if b[rows].any():
            yield part, (a.clone(), b[rows].clone())


def _swap_halves(b: torch.Tensor) -> torch.Tensor:
    first, second = b.chunk(2)
    return torch.cat([second, first])


def _fuse(layer: Layer, pairs: Sequence[Pair | None]) -> Pair:
    """Return one pair that does what these do side by side; a missing part adds nothing to its rows."""
    if len(pairs) == 1 and pairs[0] is not None:
        a, b = pairs[0]
        return (a, _swap_halves(b)) if layer.module.swapped else (a, b)
    present = [pair for pair in pairs if pair is not None]
    inputs = present[0][0].shape[1]
    for name, pair in zip(layer.diffusers, pairs, strict=True):
        if pair is not None and pair[0].shape[1] != inputs:
            raise ModelUnreadable(
                f"{name} is {pair[0].shape[1]} to {len(pair[1])}, which cannot be fused with the others"
            )
    heights = layer.module.rows(inputs)
    shared = present[0][0]
    if len(present) > 1 and all(a.shape == shared.shape and torch.equal(a, shared) for a, _ in present):
        # They were one layer before, and become it again at its rank.
        rows = [
            shared.new_zeros(height, len(shared)) if pair is None else pair[1]
            for height, pair in zip(heights, pairs, strict=True)
        ]
        return shared, torch.cat(rows)
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

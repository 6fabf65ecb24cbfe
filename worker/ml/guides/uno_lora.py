"""UNO's LoRA: its file, checked against a base, and how its layers are added to those of the denoiser.

The file has the layers of an attention processor in every block of the denoiser: of a double block `qkv` and `proj` of
both streams, of a single block `qkv`, which is a part of its `linear1`, and `proj`, which is its `linear2`. All have
scale 1. diffusers has query, key and value apart, so one layer of the file can be several of the denoiser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from worker.ml.adapters import files
from worker.ml.adapters.attach import check_fits
from worker.ml.adapters.names import LoraNames, Pair
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.models import Base
from worker.ml.single_files.parts import read_names

IN_DOUBLE_BLOCKS = ("qkv1", "proj1", "qkv2", "proj2")
IN_SINGLE_BLOCKS = ("qkv", "proj")


class LoraLayer(torch.nn.Module):
    """One layer of the file, in a base's precision: `down` (rank, in) and `up` (out, rank)."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor, rows: Mapping[str, slice]) -> None:
        """`rows` are those of `up` that each layer of the denoiser gets, by its name."""
        super().__init__()
        self.down = torch.nn.Parameter(down, requires_grad=False)
        self.up = torch.nn.Parameter(up, requires_grad=False)
        self.rows = rows

    def add(self, rows: slice, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        """Return the output of a layer of the denoiser with what these rows add to it: a forward hook."""
        return output + F.linear(F.linear(inputs[0], self.down), self.up[rows])


@contextmanager
def added(denoiser: Any, layers: Sequence[LoraLayer]) -> Iterator[None]:
    """Add these layers to those of the denoiser inside the block.

    They are not merged, and no adapters of PEFT: so they fit a quantised denoiser, and leave other LoRAs as they are.
    """
    with ExitStack() as hooks:
        for layer in layers:
            for name, rows in layer.rows.items():
                hook = denoiser.get_submodule(name).register_forward_hook(partial(layer.add, rows))
                hooks.callback(hook.remove)
        yield


def is_lora(file: Path) -> bool:
    """Return True if a file has the layers of such a LoRA. Raises ModelUnreadable if it cannot be read."""
    return any(".processor.qkv_lora" in name for name in read_names(file))


def load_layers(file: Path, base: Base) -> list[LoraLayer]:
    """Load the LoRA on the CPU. Raises ModelUnreadable: damaged, of another family, or not exactly one for this base.

    A layer that is missing would be drawn without, and one too many left out.
    """
    header, names = lora.identify(file)
    if names.family != base.family.name:
        raise ModelUnreadable(f"{file.name} is a LoRA for {names.family}, but the base is {base.family.name}")
    check_complete(file.name, header.layers, base.denoiser)
    pairs = files.read_pairs(file, header)
    layers = [layer_of(name, (a.to(base.dtype), b.to(base.dtype)), names) for name, (a, b) in pairs.items()]
    for layer in layers:
        if not (layer.down.isfinite().all() and layer.up.isfinite().all()):
            precision = str(base.dtype).removeprefix("torch.")
            raise ModelUnreadable(f"{file.name} has weights that are not finite in {precision}")
        check_fits(base.denoiser, file.name, {name: (layer.down, layer.up[rows]) for name, rows in layer.rows.items()})
    return layers


def layer_of(name: str, pair: Pair, names: LoraNames) -> LoraLayer:
    """Return a layer by its name in the file."""
    return LoraLayer(*pair, names.known(name).rows(pair[0].shape[1]))


def check_complete(file: str, layers: Mapping[str, Any], denoiser: Any) -> None:
    """Raise ModelUnreadable unless a file has all layers that such a LoRA has for this denoiser, and no others."""
    double, single = denoiser.config.num_layers, denoiser.config.num_single_layers
    expected = {f"double_blocks.{i}.{layer}" for i in range(double) for layer in IN_DOUBLE_BLOCKS}
    expected |= {f"single_blocks.{i}.{layer}" for i in range(single) for layer in IN_SINGLE_BLOCKS}
    for words, differing in (("lacks", expected - layers.keys()), ("also has", layers.keys() - expected)):
        if differing:
            raise ModelUnreadable(
                f"{file} does not fit this base of {double} double and {single} single blocks: it {words} "
                f"{len(differing)} layers, such as {min(differing)}"
            )

"""The names of a LoRA's layers, in diffusers' naming and in kohya's, and the conversion between the two.

kohya's names (sd-scripts) are those of each family's original code with underscores for dots. Splitting them again
is ambiguous (`to_out_0`), so both namings come from one table. For SD 1.5 they are diffusers' own modules. FLUX's
original code fuses query, key, value (and a single block's feed-forward layer) into one, so their LoRAs are fused too:
factors A stacked, factors B on a block diagonal, the rank that many times larger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from worker.ml.errors import ModelUnreadable

Pair = tuple[torch.Tensor, torch.Tensor]
"""The two factors of a layer's LoRA, A (rank, in) and B (out, rank), such that B·A is added to its weights."""


@dataclass(frozen=True)
class Module:
    """One kind of layer in both namings; `{}` is a number."""

    kohya: str
    diffusers: tuple[str, ...]  # several where kohya's layer fuses them, in the order of their rows
    widths: tuple[int, ...] = (1,)  # of the fused parts' outputs, as multiples of their input

    def layer(self, numbers: Sequence[str]) -> str:
        return self.kohya.format(*numbers)

    def parts(self, numbers: Sequence[str]) -> list[str]:
        return [name.format(*numbers) for name in self.diffusers]


def _sd15() -> Iterator[Module]:
    block = "transformer_blocks.{}."
    attention = [f"{block}attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    for part in ("down_blocks.{}", "mid_block", "up_blocks.{}"):
        for layer in ("proj_in", *attention, f"{block}ff.net.0.proj", f"{block}ff.net.2", "proj_out"):
            name = f"{part}.attentions.{{}}.{layer}"
            yield Module("lora_unet_" + name.replace(".", "_"), ("unet." + name,))


def _flux() -> Iterator[Module]:
    double, single = "transformer.transformer_blocks.{}.", "transformer.single_transformer_blocks.{}."
    for stream, projections, out, feed_forward, norm in (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1"),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context"),
    ):
        kohya = f"lora_unet_double_blocks_{{}}_{stream}_"
        yield Module(f"{kohya}attn_qkv", tuple(f"{double}attn.{name}" for name in projections), (1, 1, 1))
        yield Module(f"{kohya}attn_proj", (f"{double}attn.{out}",))
        yield Module(f"{kohya}mlp_0", (f"{double}{feed_forward}.net.0.proj",))
        yield Module(f"{kohya}mlp_2", (f"{double}{feed_forward}.net.2",))
        yield Module(f"{kohya}mod_lin", (f"{double}{norm}.linear",))
    kohya = "lora_unet_single_blocks_{}_"
    inputs = (*(f"{single}attn.{name}" for name in ("to_q", "to_k", "to_v")), f"{single}proj_mlp")
    yield Module(f"{kohya}linear1", inputs, (1, 1, 1, 4))
    yield Module(f"{kohya}linear2", (f"{single}proj_out",))
    yield Module(f"{kohya}modulation_lin", (f"{single}norm.linear",))


MODULES: dict[str, tuple[Module, ...]] = {"sd15": tuple(_sd15()), "flux": tuple(_flux())}
"""The layers that LoRAs are trained on, by family."""


def find(family: str, layer: str) -> tuple[Module, tuple[str, ...]] | None:
    """Return the kind of this layer, in either naming, and the numbers in its name; None for an unknown layer."""
    for module in MODULES[family]:
        for name in (module.kohya, *module.diffusers):
            match = re.fullmatch(re.escape(name).replace(r"\{\}", r"(\d+)"), layer)
            if match:
                return module, match.groups()
    return None


def to_kohya(family: str, layers: Mapping[str, Pair]) -> dict[str, Pair]:
    """Convert layers from diffusers' names to kohya's. Raises ModelUnreadable for a layer that cannot be converted."""
    fused: dict[tuple[Module, tuple[str, ...]], dict[str, Pair]] = {}
    for layer, pair in layers.items():
        fused.setdefault(known(family, layer), {})[layer] = pair
    return {
        module.layer(numbers): _fuse(module, [pairs.get(part) for part in module.parts(numbers)])
        for (module, numbers), pairs in fused.items()
    }


def to_diffusers(family: str, layers: Mapping[str, Pair]) -> dict[str, Pair]:
    """Convert layers from kohya's names to diffusers'. Raises ModelUnreadable for a layer that cannot be converted."""
    split: dict[str, Pair] = {}
    for layer, (a, b) in layers.items():
        module, numbers = known(family, layer)
        if len(module.diffusers) == 1:
            split[module.parts(numbers)[0]] = (a, b)
            continue
        rows = [width * a.shape[1] for width in module.widths]
        if sum(rows) != len(b):
            raise ModelUnreadable(f"{layer} has {len(b)} outputs, but its fused parts have {sum(rows)}")
        for part, part_b in zip(module.parts(numbers), torch.split(b, rows), strict=True):
            if part_b.any():  # all zeros mean that the part was not trained
                split[part] = (a.clone(), part_b.clone())
    return split


def known(family: str, layer: str) -> tuple[Module, tuple[str, ...]]:
    """Return the kind of this layer as `find` does. Raises ModelUnreadable for an unknown layer."""
    found = find(family, layer)
    if found is None:
        raise ModelUnreadable(f"layer {layer} does not exist in the other naming")
    return found


def _fuse(module: Module, pairs: Sequence[Pair | None]) -> Pair:
    """Return one pair that does what these do side by side; a missing part adds nothing to its rows."""
    if len(pairs) == 1 and pairs[0] is not None:
        return pairs[0]
    present = [pair for pair in pairs if pair is not None]
    inputs = present[0][0].shape[1]
    for width, name, pair in zip(module.widths, module.diffusers, pairs, strict=True):
        if pair is not None and (pair[0].shape[1:] != (inputs,) or pair[1].shape != (width * inputs, len(pair[0]))):
            raise ModelUnreadable(
                f"{name} is {pair[0].shape[1]} to {len(pair[1])}, which cannot be fused with the others"
            )
    stacked = torch.cat([a for a, _ in present])
    diagonal = torch.zeros(sum(width * inputs for width in module.widths), len(stacked), dtype=stacked.dtype)
    row = column = 0
    for width, pair in zip(module.widths, pairs, strict=True):
        if pair is not None:
            rows, rank = pair[1].shape
            diagonal[row : row + rows, column : column + rank] = pair[1]
            column += rank
        row += width * inputs
    return stacked, diagonal

"""LoRA files by family: what each brings of its own, and how a file's family is told from its layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.ml.adapters import files
from worker.ml.adapters.attach import check_fits
from worker.ml.adapters.names import LoraNames, Pair, Shape
from worker.ml.errors import ModelUnreadable
from worker.ml.families.lora import flux1, sd15

NAMES: dict[str, LoraNames] = {names.family: names for names in (flux1.NAMES, sd15.NAMES)}


def family_of(file: str, layers: Mapping[str, Shape]) -> LoraNames:
    """Return the family of a file by its layers' names and shapes. Raises ModelUnreadable unless it is exactly one."""
    found = [names for names in NAMES.values() if names.claims(layers)]
    if len(found) == 1:
        return found[0]
    if found:
        families = " or ".join(names.family for names in found)
        raise ModelUnreadable(f"{file} may be a LoRA for {families}: its layers exist in each")
    for layer, shape in layers.items():
        if not any(names.has(layer, shape) for names in NAMES.values()):
            size = f"{shape[0]} to {shape[1]} features"
            raise ModelUnreadable(f"{file} is a LoRA of an unknown family: its layer {layer} maps {size}")
    raise ModelUnreadable(f"{file} is a LoRA of an unknown family: layers such as {next(iter(layers))} do not tell it")


def load(path: Path, family: str) -> dict[str, Pair]:
    """Return the layers of a file by their names in the denoiser of a base of this family, alpha folded in.

    Factors are on the CPU in the file's precision: A (rank, in), B (out, rank), and a kernel of one pixel more in each
    for a convolution. Raises ModelUnreadable: not a plain LoRA, of another family, in names that cannot be drawn with,
    or with numbers that are not finite, of which a single one would make every picture black.
    """
    header = files.read_header(path)
    names = family_of(path.name, header.layers)
    if names.family != family:
        raise ModelUnreadable(f"{path.name} is a LoRA for {names.family}, but the base is {family}")
    if header.naming != names.naming:
        raise ModelUnreadable(
            f"{path.name} has {header.naming} names, but {names.naming} names are needed: convert it with "
            f"`worker lora export {path.name} --format {names.naming} --output FILE`"
        )
    pairs = files.read_pairs(path, header)
    layers = names.to_diffusers(pairs) if names.naming == "kohya" else pairs
    return {layer.removeprefix(names.prefix): pair for layer, pair in layers.items()}


def load_fitting(path: Path, family: str, denoiser: Any) -> dict[str, Pair]:
    """Return the layers of a file as `load` does, once all of them fit this denoiser. Raises ModelUnreadable."""
    layers = load(path, family)
    check_fits(denoiser, path.name, layers)
    return layers

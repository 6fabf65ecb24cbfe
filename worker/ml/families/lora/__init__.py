"""LoRA files by family: what each brings of its own, and how a file's family is told from its layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from worker.ml.adapters import files
from worker.ml.adapters.attach import check_fits
from worker.ml.adapters.files import LoraHeader
from worker.ml.adapters.names import LoraNames, Naming, Pair, Shape
from worker.ml.adapters.spellings import is_of_text_encoder
from worker.ml.errors import ModelUnreadable
from worker.ml.families.lora import flux1, klein, others, qwen_image, sd15, sdxl, z_image

NAMES: dict[str, LoraNames] = {
    names.family: names for names in (flux1.NAMES, klein.NAMES, qwen_image.NAMES, sd15.NAMES, sdxl.NAMES, z_image.NAMES)
}


def family_of(file: str, layers: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> LoraNames:
    """Return the family of a file by its layers' names and shapes. Raises ModelUnreadable unless it is exactly one.

    Where several have such layers, the metadata decides, if it names one of them.
    """
    found = [names for names in NAMES.values() if names.claims(layers)]
    if len(found) > 1 and metadata:
        found = [names for names in found if _states(metadata, names)] or found
    if len(found) == 1:
        return found[0]
    if found:
        families = " or ".join(names.family for names in found)
        raise ModelUnreadable(f"{file} may be a LoRA for {families}: its layers exist in each")
    other = others.named_by_layers(layers)
    of_text = [layer for layer in layers if is_of_text_encoder(layer)]
    if of_text:
        kind = f"{'alone' if len(of_text) == len(layers) else 'too'}{f', as in {other}' if other else ''}"
        raise ModelUnreadable(f"{file} is a LoRA of the text encoder {kind} ({of_text[0]}): {files.ONLY_PLAIN}")
    known = f"{f', as in {other}' if other else ''}; supported: {', '.join(NAMES)}"
    for layer, shape in layers.items():
        if not any(names.has(layer, shape) for names in NAMES.values()):
            size = f"{shape[0]} to {shape[1]} features"
            raise ModelUnreadable(f"{file} is a LoRA of an unknown family: its layer {layer} maps {size}{known}")
    raise ModelUnreadable(f"{file} is a LoRA of an unknown family: it has layers of several{known}")


def identify(path: Path) -> tuple[LoraHeader, LoraNames]:
    """Return a file's header and its family. Raises ModelUnreadable: not a plain LoRA of a family, by all that it says.

    What the metadata states counts only against a family: some have layers of the same names and shapes. Our own files
    name theirs.
    """
    header = files.read_header(path)
    names = family_of(path.name, header.layers, header.metadata)
    stated = _another_stated(header.metadata, names)
    if stated is not None and header.metadata.get("family") != names.family:
        raise ModelUnreadable(
            f"{path.name} is a LoRA of an unknown family: its metadata says {stated[1]!a}, which is {stated[0]}; "
            f"supported: {', '.join(NAMES)}"
        )
    return header, names


def _states(metadata: Mapping[str, str], names: LoraNames) -> bool:
    return metadata.get("family") == names.family or others.words_like(names.stated, metadata) is not None


def _another_stated(metadata: Mapping[str, str], names: LoraNames) -> tuple[str, str] | None:
    """Return another family that the metadata states and its words, None if it states none."""
    for other in NAMES.values():
        words = others.words_like(other.stated, metadata)
        if words is not None and other is not names:
            return other.family, words
    return others.named_by_metadata(metadata)


def convert(path: Path, naming: Naming) -> Converted:
    """Return a file's layers in another naming, alpha folded in. Raises ModelUnreadable as `identify` does.

    ComfyUI's naming is only for families whose own it is; of the others ComfyUI reads theirs.
    """
    header, names = identify(path)
    if naming == "ComfyUI" != names.naming:
        raise ModelUnreadable(f"{path.name} is a LoRA for {names.family}, of which ComfyUI reads {names.naming} names")
    layers = names.to_diffusers(files.read_pairs(path, header))
    if naming == "kohya":
        layers = names.to_kohya(layers)
    if naming == "ComfyUI":
        layers = names.to_comfyui(layers)
    return Converted(header, names, layers)


def convert_to_own(path: Path) -> Converted:
    """Return a file's layers in the naming of its family, as `convert` does."""
    return convert(path, identify(path)[1].naming)


def check_fits_folder(file: str, converted: Converted, folder: Path) -> None:
    """Raise ModelUnreadable unless these layers fit the base in this folder, whose weights are not read."""
    names = converted.names
    part = names.prefix.removesuffix(".")
    try:
        config = json.loads((folder / part / "config.json").read_text("utf-8"))
        with torch.device("meta"):
            denoiser = getattr(diffusers, config["_class_name"]).from_config(config)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelUnreadable(f"{file} is for {names.family}, and {folder.name} has no {part} of it") from error
    layers = names.to_diffusers(converted.layers)
    check_fits(denoiser, file, {name.removeprefix(names.prefix): pair for name, pair in layers.items()})


@dataclass(frozen=True)
class Converted:
    """The layers of a LoRA file in another naming."""

    header: LoraHeader
    names: LoraNames
    layers: dict[str, Pair]

    @property
    def rank(self) -> int:
        """The largest of its layers' ranks, which fusing them raises."""
        return max(len(a) for a, _ in self.layers.values())


def load(path: Path, family: str) -> dict[str, Pair]:
    """Return the layers of a file by their names in the denoiser of a base of this family, alpha folded in.

    Factors are on the CPU in the file's precision: A (rank, in), B (out, rank), and a kernel of one pixel more in each
    for a convolution. Raises ModelUnreadable: not a plain LoRA, of another family, in names that cannot be drawn with,
    or with numbers that are not finite, of which a single one would make every picture black.
    """
    header, names = identify(path)
    if names.family != family:
        raise ModelUnreadable(f"{path.name} is a LoRA for {names.family}, but the base is {family}")
    if header.naming != names.naming:
        raise ModelUnreadable(
            f"{path.name} has {header.naming} names, but {names.naming} names are needed: convert it with "
            f"`worker lora export {path.name} --format {names.naming} --output FILE`"
        )
    layers = names.to_diffusers(files.read_pairs(path, header))
    return {layer.removeprefix(names.prefix): pair for layer, pair in layers.items()}


def load_fitting(path: Path, family: str, denoiser: Any) -> dict[str, Pair]:
    """Return the layers of a file as `load` does, once all of them fit this denoiser. Raises ModelUnreadable."""
    layers = load(path, family)
    check_fits(denoiser, path.name, layers)
    return layers

"""Opening a ControlNet from its folder, and refusing one that does not fit."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from worker.ml.errors import BadInput, ModelUnreadable, is_out_of_memory
from worker.ml.families.controlnets import NETWORKS
from worker.ml.guides.controlnet import ControlNet
from worker.ml.guides.finite import check_finite
from worker.ml.models import Base
from worker.ml.not_weights import PICKLES
from worker.ml.single_files.parts import read_names, read_weights

CONFIG = "config.json"


def open_controlnet(folder: Path, base: Base, kind: str) -> ControlNet:
    """Load a ControlNet on the CPU, in the denoiser's precision; from safetensors files alone.

    It is in diffusers layout, or one file as it was published, where its family knows such files. Raises
    ModelUnreadable, naming the folder, if it is damaged, of another family than the base, or not for this kind.
    """
    published = None if (folder / CONFIG).is_file() else _published_file(folder)
    sort = _sort(folder) if published is None else _sort_of_file(folder, published)
    if sort.denoiser != type(base.denoiser).__name__:
        raise ModelUnreadable(
            f"{folder.name} is a {sort.diffusers_class.__name__}, which does not fit {base.folder.name} "
            f"({base.family.name})"
        )
    opened = sort(folder, _load(folder, published, sort, base))
    if misfit := opened.misfit(base):
        raise ModelUnreadable(f"{folder.name} does not fit {base.folder.name} ({base.family.name}): {misfit}")
    try:
        opened.mode(kind)
    except BadInput as error:
        raise ModelUnreadable(str(error)) from error
    return opened


def _published_file(folder: Path) -> Path | None:
    """Return the one file of weights in a folder, if it has no other. Raises ModelUnreadable: several."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelUnreadable(
            f"{folder.name} is not a ControlNet: {CONFIG} is missing. As published, keep one of {names}"
        )
    return files[0] if files else None


def _sort_of_file(folder: Path, file: Path) -> type[ControlNet]:
    """Return the sort of a network that is known by its file alone. Raises ModelUnreadable."""
    try:
        names = read_names(file)
    except ModelUnreadable as error:
        raise ModelUnreadable(f"{folder.name} is damaged: {error}") from error
    for sort in NETWORKS.values():
        if sort.known_by in names:
            return sort
    raise ModelUnreadable(f"{folder.name} is not a ControlNet: {CONFIG} is missing")


def _sort(folder: Path) -> type[ControlNet]:
    """Return which sort of network a folder in diffusers layout holds. Raises ModelUnreadable."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        name = str(config["_class_name"])
    except FileNotFoundError as error:
        raise ModelUnreadable(f"{folder.name} is not a ControlNet: {CONFIG} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnreadable(f"{folder.name} is damaged: its {CONFIG} does not name a class") from error
    if name == "ControlNetModel" and "num_control_type" in config:  # the published one calls itself this too
        name = "ControlNetUnionModel"
    if name not in NETWORKS:
        raise ModelUnreadable(f"{folder.name} is a {name}, which is unsupported; supported: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def _load(folder: Path, published: Path | None, sort: type[ControlNet], base: Base) -> Any:
    """Return the network, ready to be used. Raises ModelUnreadable."""
    if not any(folder.glob("*.safetensors")) and any(path.suffix in PICKLES for path in folder.iterdir()):
        raise ModelUnreadable(f"{folder.name} has only a pickle, which is never loaded: convert it to safetensors")
    try:
        network, loading = _from_folder(folder, sort, base) if published is None else _from_file(published, sort, base)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(f"{folder.name} is an incomplete or damaged ControlNet: {error}") from error
    for words in ("missing", "unexpected"):
        if keys := sorted(loading[f"{words}_keys"]):
            raise ModelUnreadable(
                f"{folder.name} is an incomplete or damaged ControlNet: {len(keys)} {words} weights, such as {keys[0]}"
            )
    check_finite(folder.name, [network], base.dtype)
    return network.requires_grad_(False).eval()


def _from_folder(folder: Path, sort: type[ControlNet], base: Base) -> tuple[Any, Mapping[str, Collection[str]]]:
    """Return the network of a folder in diffusers layout, and which weights it lacks or has more."""
    network, loading = sort.diffusers_class.from_pretrained(
        folder, dtype=base.dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    return network, loading


def _from_file(file: Path, sort: type[ControlNet], base: Base) -> tuple[Any, Mapping[str, Collection[str]]]:
    """Return the network of a published file, and which weights it lacks or has more."""
    config, weights = sort.read_published(read_weights(file), base)
    with torch.device("meta"):
        network = sort.diffusers_class.from_config(config)
    converted = {name: one.to(base.dtype) for name, one in weights.items()}
    loaded = network.load_state_dict(converted, strict=False, assign=True)
    return network, {"missing_keys": loaded.missing_keys, "unexpected_keys": loaded.unexpected_keys}

"""Opening a ControlNet from its folder, and refusing one that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worker.ml.errors import BadInput, ModelUnreadable, is_out_of_memory
from worker.ml.families.controlnets import NETWORKS
from worker.ml.guides.controlnet import ControlNet
from worker.ml.guides.finite import check_finite
from worker.ml.models import Base
from worker.ml.not_weights import PICKLES


def open_controlnet(folder: Path, base: Base, kind: str) -> ControlNet:
    """Load a ControlNet in diffusers layout on the CPU, in the denoiser's precision; from safetensors files alone.

    Raises ModelUnreadable, naming the folder, if it is damaged, of another family than the base, or not for this kind.
    """
    sort = _sort(folder)
    if sort.denoiser != type(base.denoiser).__name__:
        raise ModelUnreadable(
            f"{folder.name} is a {sort.diffusers_class.__name__}, which does not fit {base.folder.name} "
            f"({base.family.name})"
        )
    opened = sort(folder, _load(folder, sort, base))
    _check_fits(opened, base)
    try:
        opened.mode(kind)
    except BadInput as error:
        raise ModelUnreadable(str(error)) from error
    return opened


def _sort(folder: Path) -> type[ControlNet]:
    """Return which sort of network a folder holds. Raises ModelUnreadable."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        name = str(config["_class_name"])
    except FileNotFoundError as error:
        raise ModelUnreadable(f"{folder.name} is not a ControlNet: config.json is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnreadable(f"{folder.name} is damaged: its config.json does not name a class") from error
    if name == "ControlNetModel" and "num_control_type" in config:  # the published one calls itself this too
        name = "ControlNetUnionModel"
    if name not in NETWORKS:
        raise ModelUnreadable(f"{folder.name} is a {name}, which is unsupported; supported: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def _load(folder: Path, sort: type[ControlNet], base: Base) -> Any:
    """Return the network, ready to be used. Raises ModelUnreadable."""
    if not any(folder.glob("*.safetensors")) and any(path.suffix in PICKLES for path in folder.iterdir()):
        raise ModelUnreadable(f"{folder.name} has only a pickle, which is never loaded: convert it to safetensors")
    try:
        network, loading = sort.diffusers_class.from_pretrained(
            folder, dtype=base.dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
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


def _check_fits(opened: ControlNet, base: Base) -> None:
    """Raise ModelUnreadable, with what differs, for a network that was made from another denoiser."""
    theirs, ours = opened.network.config, base.denoiser.config
    for name in opened.same:
        own, needed = _plain(theirs.get(name)), _plain(ours.get(name))
        if own != needed:
            raise ModelUnreadable(
                f"{opened.folder.name} does not fit {base.folder.name} ({base.family.name}): its {name} is {own}, "
                f"that of the base is {needed}"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value

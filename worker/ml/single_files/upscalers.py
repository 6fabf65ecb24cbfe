"""Converts the official Real-ESRGAN weights, which are pickles, to safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from worker.ml.errors import ModelUnreadable
from worker.ml.networks import real_esrgan
from worker.ml.not_weights import kind_of
from worker.ml.single_files.pickles import plain_names, read_pickle


def import_upscaler(file: Path, target: Path, scale: int) -> None:
    """Write `target` from a .pth or .safetensors file. Only tensors are unpickled: nothing in the file is run.

    Raises ModelUnreadable: damaged, a pickle that holds more than tensors, or not an upscaler by that scale.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if file.suffix == ".safetensors":
            shutil.copyfile(file, target)
            _unwrap_names(file, target)
        else:
            save_file(read_pickle(file), target)
    except OSError as error:
        raise ModelUnreadable(f"{file.name} cannot be copied ({error.strerror})") from error
    try:
        upscaler = real_esrgan.load(target, device="cpu")
    except ModelUnreadable as error:
        raise ModelUnreadable(str(error).replace(str(target), file.name).replace(target.name, file.name)) from error
    if upscaler.scale != scale:
        raise ModelUnreadable(f"{file.name} enlarges by {upscaler.scale}, not by {scale}")


def _unwrap_names(file: Path, target: Path) -> None:
    """Rewrite a copied file whose names all begin with a wrapper's. Raises ModelUnreadable: damaged."""
    try:
        with safe_open(target, framework="pt") as content:
            names = list(content.keys())
            if plain_names(names) == names:
                return
        weights = load_file(target)
    except SafetensorError as error:
        raise ModelUnreadable(f"{file.name} is damaged, or not safetensors: {kind_of(target) or error}") from error
    save_file(dict(zip(plain_names(list(weights)), weights.values(), strict=True)), target)

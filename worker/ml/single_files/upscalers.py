"""Converts the official Real-ESRGAN weights, which are pickles, to safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from worker.ml.errors import ModelUnreadable
from worker.ml.networks import real_esrgan
from worker.ml.not_weights import kind_of

WRAPPERS = (
    "params_ema",
    "params-ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net_g",
    "generator",
    "module",
)
"""What training programs put the weights into, the average over the training first."""


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
            save_file(_read_pickle(file), target)
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
            if _plain_names(names) == names:
                return
        weights = load_file(target)
    except SafetensorError as error:
        raise ModelUnreadable(f"{file.name} is damaged, or not safetensors: {kind_of(target) or error}") from error
    save_file(dict(zip(_plain_names(list(weights)), weights.values(), strict=True)), target)


def _plain_names(names: list[str]) -> list[str]:
    while wrapper := next((f"{name}." for name in WRAPPERS if all(own.startswith(f"{name}.") for own in names)), None):
        names = [name.removeprefix(wrapper) for name in names]
    return names


def _read_pickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:  # the disk failed
        raise
    except Exception as error:  # torch raises anything for a damaged pickle: KeyError, IndexError, UnicodeDecodeError …
        raise ModelUnreadable(f"{file.name} is not a file of weights alone, and nothing else is loaded") from error
    while isinstance(held, dict) and (wrapper := next((name for name in WRAPPERS if name in held), None)):
        held = held[wrapper]
    if not isinstance(held, dict) or not held or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
        raise ModelUnreadable(f"{file.name} does not hold the weights of a network")
    names = _plain_names([str(name) for name in held])
    # A copy of each: some networks hold one tensor under two names, which safetensors refuses.
    return {name: tensor.detach().clone().contiguous() for name, tensor in zip(names, held.values(), strict=True)}

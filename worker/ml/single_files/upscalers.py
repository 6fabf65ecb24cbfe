"""Converts the official Real-ESRGAN weights, which are pickles, to safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from worker.ml.errors import ModelUnreadable
from worker.ml.networks import real_esrgan


def import_upscaler(file: Path, target: Path, scale: int) -> None:
    """Write `target` from a .pth or .safetensors file. Only tensors are unpickled: nothing in the file is run.

    Raises ModelUnreadable: damaged, a pickle that holds more than tensors, or not an upscaler by that scale.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if file.suffix == ".safetensors":
            shutil.copyfile(file, target)
        else:
            save_file(_read_pickle(file), target)
    except OSError as error:
        raise ModelUnreadable(f"{file.name} cannot be copied ({error.strerror})") from error
    upscaler = real_esrgan.load(target, device="cpu")
    if upscaler.scale != scale:
        raise ModelUnreadable(f"{file.name} enlarges by {upscaler.scale}, not by {scale}")


def _read_pickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:  # the disk failed
        raise
    except Exception as error:  # torch raises anything for a damaged pickle: KeyError, IndexError, UnicodeDecodeError …
        raise ModelUnreadable(f"{file.name} is not a file of weights alone, and nothing else is loaded") from error
    for name in ("params_ema", "params"):  # as the official training code saves them
        if isinstance(held, dict) and name in held:
            held = held[name]
    if not isinstance(held, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
        raise ModelUnreadable(f"{file.name} does not hold the weights of a network")
    return {str(name): tensor.contiguous() for name, tensor in held.items()}

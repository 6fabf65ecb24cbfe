"""Reads published weights that are pickles. Only tensors are unpickled: nothing in the file is run.

Pickles are read when a model is imported, in a process of its own, and never afterwards.
"""

from __future__ import annotations

from pathlib import Path

import torch

from worker.ml.errors import ModelUnreadable

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


def plain_names(names: list[str]) -> list[str]:
    """Return the names of tensors without those that programs put before all of them."""
    while wrapper := next((f"{name}." for name in WRAPPERS if all(own.startswith(f"{name}.") for own in names)), None):
        names = [name.removeprefix(wrapper) for name in names]
    return names


def read_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a network. Raises ModelUnreadable: damaged, or it holds more than tensors."""
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
    names = plain_names([str(name) for name in held])
    # A copy of each: some networks hold one tensor under two names, which safetensors refuses.
    return {name: tensor.detach().clone().contiguous() for name, tensor in zip(names, held.values(), strict=True)}

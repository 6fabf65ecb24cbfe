"""Checkpoints of a training: weights, optimizer state and losses in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from worker.ml.errors import ModelUnreadable

_KEPT = 2  # the newest, and the one before it, which may still be on its way to storage


def write_checkpoint(
    folder: Path,
    identity: Mapping[str, str],
    losses: list[float],
    lora: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write `checkpoint-{step}.safetensors` in one step; the step is the number of losses so far."""
    tensors = {f"lora/{name}": weights.detach() for name, weights in lora.items()}
    numbers: dict[str, float] = {}  # what an optimizer keeps as plain numbers, such as 8-bit AdamW's step
    for name, weights in lora.items():
        for key, value in optimizer.state[weights].items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
            else:
                numbers[f"optimizer/{name}/{key}"] = value
    tensors["losses"] = torch.tensor(losses, dtype=torch.float32)  # float32 is what they were computed in
    owned = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}

    path = folder / f"checkpoint-{len(losses)}.safetensors"
    unfinished = path.with_name(path.name + ".part")
    save_file(owned, unfinished, metadata={"identity": json.dumps(dict(identity)), "numbers": json.dumps(numbers)})
    unfinished.replace(path)
    for old in sorted(folder.glob("checkpoint-*.safetensors"), key=_step)[:-_KEPT]:
        old.unlink()
    return path


@torch.no_grad()
def read_checkpoint(
    path: Path,
    identity: Mapping[str, str],
    lora: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> list[float]:
    """Put a checkpoint's state into these weights and this optimizer, and return the losses up to it.

    Raises ModelUnreadable when it is damaged or of another training (other photos, settings, base or optimizer).
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        theirs, numbers = json.loads(metadata["identity"]), json.loads(metadata["numbers"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelUnreadable(f"{path.name} is not a checkpoint that can be read") from error
    other = sorted(name for name in identity if theirs.get(name) != identity[name])
    if other:
        raise ModelUnreadable(f"{path.name} belongs to another training: its {', '.join(other)} differ")

    # Looked up before the first weight is touched: what is left aside has changed nothing.
    try:
        theirs_of = {name: tensors[f"lora/{name}"].reshape(weights.shape) for name, weights in lora.items()}
        losses: list[float] = tensors["losses"].tolist()
    except (KeyError, RuntimeError) as error:
        raise ModelUnreadable(f"{path.name} lacks a part") from error

    state: dict[int, dict[str, object]] = {}
    for index, (name, weights) in enumerate(lora.items()):
        weights.copy_(theirs_of[name])
        prefix = f"optimizer/{name}/"
        state[index] = {
            key.removeprefix(prefix): value
            for kept in (tensors, numbers)
            for key, value in kept.items()
            if key.startswith(prefix)
        }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return losses


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))

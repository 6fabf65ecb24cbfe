"""Checkpoints of a training: the whole state of its loop in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from worker.ml.errors import ModelUnreadable
from worker.ml.train.optimizer import load_state

_Value = TypeVar("_Value")
_KEPT = 2  # the newest, and the one before it, which may still be uploading


@dataclass
class LoopState:
    """Everything that changes from step to step. Random numbers are not part of it: they derive from the step."""

    lora: Mapping[str, torch.nn.Parameter]  # by the names in the LoRA file
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # enabled in fp16 alone; otherwise it does nothing and has no state
    losses: list[float]  # one for each step so far


def write_checkpoint(folder: Path, identity: Mapping[str, str], state: LoopState) -> Path:
    """Write `checkpoint-{step}.safetensors` atomically; the step is the number of losses so far."""
    tensors = {f"lora/{name}": weights.detach() for name, weights in state.lora.items()}
    numbers: dict[str, float] = {}  # what an optimizer keeps as plain numbers, such as 8-bit AdamW's step
    for name, weights in state.lora.items():
        for key, value in state.optimizer.state[weights].items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
            else:
                numbers[f"optimizer/{name}/{key}"] = value
    numbers |= {f"scaler/{key}": value for key, value in state.scaler.state_dict().items()}
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float32)  # float32 is what they were computed in
    owned = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}

    path = folder / f"checkpoint-{len(state.losses)}.safetensors"
    unfinished = path.with_name(path.name + ".part")
    save_file(owned, unfinished, metadata={"identity": json.dumps(dict(identity)), "numbers": json.dumps(numbers)})
    unfinished.replace(path)
    for old in sorted(folder.glob("checkpoint-*.safetensors"), key=_step)[:-_KEPT]:
        old.unlink()
    return path


@torch.no_grad()
def read_checkpoint(path: Path, identity: Mapping[str, str], state: LoopState) -> str | None:
    """Put a checkpoint's weights, optimizer state, loss scale and losses into `state`.

    An optimizer of another kind may have written it. Return None, or why the optimizer's state could not be used; it
    then begins anew. Raises ModelUnreadable, and changes nothing, for a checkpoint that is damaged or belongs to
    another training (other photos, settings or base).
    """
    tensors, numbers = _read(path, identity)
    # Looked up before the first weight is touched, so that a checkpoint that is not used has changed nothing.
    try:
        weights_of = {name: tensors[f"lora/{name}"].reshape(own.shape) for name, own in state.lora.items()}
        losses: list[float] = tensors["losses"].tolist()
    except (KeyError, RuntimeError) as error:
        raise ModelUnreadable(f"{path.name} is incomplete") from error

    for name, own in state.lora.items():
        own.copy_(weights_of[name])
    state.losses[:] = losses
    if scaler := _under("scaler/", numbers):  # without one, it was written in another precision
        state.scaler.load_state_dict(scaler)
    everything: dict[str, torch.Tensor | float] = {**tensors, **numbers}
    try:
        load_state(state.optimizer, {own: _under(f"optimizer/{name}/", everything) for name, own in state.lora.items()})
    except ValueError as error:
        return str(error)
    return None


def _under(prefix: str, entries: Mapping[str, _Value]) -> dict[str, _Value]:
    return {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}


def _read(path: Path, identity: Mapping[str, str]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return a checkpoint's tensors and plain numbers. Raises ModelUnreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, numbers = json.loads(metadata["identity"]), json.loads(metadata["numbers"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelUnreadable(f"{path.name} is not a readable checkpoint") from error
    different = sorted(name for name in identity if found.get(name) != identity[name])
    if different:
        raise ModelUnreadable(f"{path.name} belongs to another training: its {', '.join(different)} differ")
    return tensors, numbers


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))

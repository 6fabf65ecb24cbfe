"""LoRA files: written in diffusers' names, read by header only.

A file holds pairs `transformer.<layer>.lora_A.weight` (rank, in) and `….lora_B.weight` (out, rank) with alpha folded
in: no alpha tensors and no `lora_adapter_metadata`, so every reader takes the scale as 1 (AI Toolkit ignores alpha on
FLUX, and diffusers refuses tensors and metadata together). Only `.safetensors` is ever opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from worker.ml.errors import ModelUnreadable

_WEIGHT = re.compile(r"(?P<layer>transformer\..+)\.lora_(?P<side>[AB])\.weight")
_FLUX_ONLY = "transformer.single_transformer_blocks."


@dataclass(frozen=True)
class LoraHeader:
    """What a LoRA file says without reading its weights."""

    family: str
    rank: int  # the largest, where layers differ
    layers: dict[str, tuple[int, int]]  # layer name to (in features, out features)
    metadata: dict[str, str]


def write(path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Write a LoRA file in one step (it is there whole, or not at all) and return its SHA-256.

    The bytes depend on the arguments alone. safetensors' own writer puts metadata in a random order.
    """
    _layers(path, {name: tuple(tensor.shape) for name, tensor in state.items()})
    weights = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    plain = save(weights)
    header_end = 8 + int.from_bytes(plain[:8], "little")
    header, data = json.loads(plain[8:header_end]), plain[header_end:]
    said = {**metadata, "format": "pt", "sshs_model_hash": hashlib.sha256(data).hexdigest()}
    text = json.dumps({"__metadata__": dict(sorted(said.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data part starts at a multiple of 8
    content = len(text).to_bytes(8, "little") + text + data

    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    return hashlib.sha256(content).hexdigest()


def read_header(path: Path) -> LoraHeader:
    """Raises ModelUnreadable: no safetensors file, no LoRA in diffusers' names, or no family known here."""
    if path.suffix != ".safetensors":
        raise ModelUnreadable(f"{path.name} is refused: only .safetensors files are loaded")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelUnreadable(f"{path.name} cannot be read as a safetensors file") from error
    layers = _layers(path, shapes)
    if not any(layer.startswith(_FLUX_ONLY) for layer in layers):
        raise ModelUnreadable(f"{path.name} is a LoRA of a family this worker does not know")
    rank = max(shape[0] for name, shape in shapes.items() if ".lora_A." in name)
    return LoraHeader(family="flux", rank=rank, layers=layers, metadata=metadata)


def _layers(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The layers and sizes that these tensors describe, when they are complete pairs and nothing else."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _WEIGHT.fullmatch(name)
        if match is None or len(shape) != 2:
            raise ModelUnreadable(f"{path.name} is no LoRA in diffusers' names: it holds {name!r} {list(shape)}")
        sides.setdefault(match["layer"], {})[match["side"]] = shape
    if not sides:
        raise ModelUnreadable(f"{path.name} holds no LoRA weights")
    for layer, pair in sides.items():
        if set(pair) != {"A", "B"} or pair["A"][0] != pair["B"][1]:
            raise ModelUnreadable(f"{path.name} is incomplete: {layer} lacks a matching pair of weights")
    return {layer: (pair["A"][1], pair["B"][0]) for layer, pair in sides.items()}

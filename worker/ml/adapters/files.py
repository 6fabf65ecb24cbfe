"""LoRA files: checked or refused by their header, read, and written so that every reader takes the scale as 1.

In diffusers' names: pairs `<layer>.lora_A.weight` (rank, in) and `<layer>.lora_B.weight` (out, rank) with alpha folded
in, no alpha tensors and no `lora_adapter_metadata`. In kohya's names: `<layer>.lora_down.weight`, `….lora_up.weight`
and `….alpha`, which equals the rank. Which naming a family uses, and which layers it has, is its own
(`families/lora/`). Only `.safetensors` is ever opened.
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

from worker.ml.adapters import scales
from worker.ml.adapters.names import SIDES, Naming, Pair, Shape
from worker.ml.errors import ModelUnreadable

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,300}")
_KEY: Mapping[Naming, re.Pattern[str]] = {
    "diffusers": re.compile(r"(?P<layer>.+)\.(?P<what>lora_A|lora_B)\.weight"),
    "kohya": re.compile(r"(?P<layer>[^.]+)\.(?P<what>lora_down\.weight|lora_up\.weight|alpha)"),
}
_FLOATS = ("F64", "F32", "F16", "BF16")
_OTHER_KINDS = {  # adapters that are also called LoRAs, by a word in their keys
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "lora_te": "a LoRA of the text encoder too",
    "text_encoder": "a LoRA of the text encoder too",
}


@dataclass(frozen=True)
class LoraHeader:
    """What is known of a LoRA file without reading its weights."""

    naming: Naming
    rank: int  # the largest, where layers differ
    layers: dict[str, Shape]
    metadata: dict[str, str]


def write(path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Write a LoRA file atomically and return its SHA-256.

    `state` holds the pairs of all layers at scale 1; with kohya's names, their alpha is added here. The bytes depend on
    the arguments alone (safetensors' own writer puts metadata in a random order). Raises ModelUnreadable for a state
    that `read_header` would refuse, and for numbers that are not finite.
    """
    naming, layers = _layers(path, {name: tuple(tensor.shape) for name, tensor in state.items()})
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if naming == "kohya":
        for layer in layers:
            down = weights[f"{layer}.lora_down.weight"]
            weights[f"{layer}.alpha"] = torch.tensor(float(len(down)), dtype=down.dtype)
    _check_finite(path, weights)
    plain = save({name: weights[name] for name in sorted(weights)})
    header_end = 8 + int.from_bytes(plain[:8], "little")
    header, data = json.loads(plain[8:header_end]), plain[header_end:]
    metadata = {**metadata, "format": "pt", "sshs_model_hash": hashlib.sha256(data).hexdigest()}
    text = json.dumps({"__metadata__": dict(sorted(metadata.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data part must start at a multiple of 8
    content = len(text).to_bytes(8, "little") + text + data

    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    return hashlib.sha256(content).hexdigest()


def read_header(path: Path) -> LoraHeader:
    """Return what a LoRA file says about itself. Raises ModelUnreadable: damaged, or not a plain LoRA."""
    if path.suffix != ".safetensors":
        raise ModelUnreadable(f"{path.name}: unsupported file type, only .safetensors files are loaded")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        # Escaped, because it repeats names from the file.
        raise ModelUnreadable(f"{path.name} is damaged, or not a safetensors file: {str(error)[:200]!a}") from error
    except OSError as error:  # the message of safetensors is the path alone
        raise ModelUnreadable(f"{path.name} cannot be read: {error.strerror or type(error).__name__}") from error
    naming, layers = _layers(path, shapes)
    for name, dtype in dtypes.items():
        if dtype not in _FLOATS:
            raise ModelUnreadable(
                f"{path.name} holds {dtype} numbers in {name}; LoRA weights must be one of {', '.join(_FLOATS)}"
            )
    side = SIDES[naming][0]
    rank = max(shapes[f"{layer}.{side}"][0] for layer in layers)
    return LoraHeader(naming, rank, layers, metadata)


def read_pairs(path: Path, header: LoraHeader) -> dict[str, Pair]:
    """Return a file's layers in its own names, with alpha folded into B.

    Raises ModelUnreadable: numbers that are not finite, or metadata about alpha that cannot be followed.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check_finite(path, tensors)
    stated = scales.stated_config(path.name, header.metadata)
    if stated is not None and header.naming == "kohya":
        raise ModelUnreadable(f"{path.name} has alpha both in tensors and in {scales.STATED}, which is unsupported")
    down, up = SIDES[header.naming]
    pairs = {}
    for layer in header.layers:
        a, b = tensors[f"{layer}.{down}"], tensors[f"{layer}.{up}"]
        scale = 1.0
        if f"{layer}.alpha" in tensors:
            scale = tensors[f"{layer}.alpha"].item() / len(a)
        elif stated is not None:
            scale = scales.stated_scale(path.name, stated, layer, len(a))
        pairs[layer] = (a, b if scale == 1 else b * scale)
    return pairs


def state_of(pairs: Mapping[str, Pair], naming: Naming) -> dict[str, torch.Tensor]:
    """Return the pairs of layers in the form that `write` accepts."""
    return {
        f"{layer}.{side}": weights
        for layer, pair in pairs.items()
        for side, weights in zip(SIDES[naming], pair, strict=True)
    }


def _check_finite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelUnreadable(f"{path.name} holds numbers that are not finite, in {name}: its training diverged")


def _layers(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Naming, dict[str, Shape]]:
    """Return the naming and layers of these tensors. Raises ModelUnreadable unless they are complete pairs alone."""
    for name in shapes:  # names are quoted below, and the file may come from anyone
        if not _NAME.fullmatch(name):
            raise ModelUnreadable(f"{path.name} is not a LoRA: {name[:60]!a} cannot be a layer's name")
    naming: Naming = "kohya" if any(name.endswith(".lora_down.weight") for name in shapes) else "diffusers"
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        for word, kind in _OTHER_KINDS.items():
            if word in name:
                raise ModelUnreadable(f"{path.name} is {kind} ({name}): only plain LoRAs of the denoiser are supported")
        match = _KEY[naming].fullmatch(name)
        if match is None:
            raise ModelUnreadable(f"{path.name} is not a LoRA: it holds {name} {list(shape)}")
        sides.setdefault(match["layer"], {})[match["what"].removesuffix(".weight")] = shape
    if not sides:
        raise ModelUnreadable(f"{path.name} holds no LoRA weights")
    down, up = (side.removesuffix(".weight") for side in SIDES[naming])
    layers = {}
    for layer, pair in sides.items():
        if not ({down, up} <= pair.keys() and _is_pair(pair[down], pair[up]) and pair.get("alpha", ()) in ((), (1,))):
            raise ModelUnreadable(f"{path.name} is incomplete: {layer} does not have a matching pair of weights")
        layers[layer] = (pair[down][1], pair[up][0], *pair[down][2:])
    return naming, layers


def _is_pair(down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    """Return True for (rank, in) and (out, rank), or the same with a kernel of one pixel, neither empty."""
    return len(down) == len(up) >= 2 and down[2:] == up[2:] in ((), (1, 1)) and down[0] == up[1] and 0 not in down + up

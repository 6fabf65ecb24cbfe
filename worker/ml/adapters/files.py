"""LoRA files: checked or refused by their header, read, and written so that every reader takes the scale as 1.

Files are read in every spelling of `spellings.py`, and written in two. In diffusers' names: pairs
`<layer>.lora_A.weight` (rank, in) and `<layer>.lora_B.weight` (out, rank) with alpha folded in, no alpha tensors and no
`lora_adapter_metadata`. In kohya's names: `<layer>.lora_down.weight`, `….lora_up.weight` and `….alpha`, which equals
the rank. Which of them a family uses, and which layers it has, is its own (`families/lora/`). Only `.safetensors` is
ever opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from worker.ml.adapters import lycoris, scales
from worker.ml.adapters.names import SIDES, Naming, Pair, Shape
from worker.ml.adapters.spellings import Key, Side, is_of_a_model, naming_of, not_plain, parse
from worker.ml.errors import ModelUnreadable
from worker.ml.not_weights import kind_of

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,300}")
_FLOATS = ("F64", "F32", "F16", "BF16")
_NUMBERS = (*_FLOATS, "I64", "I32", "I16", "I8", "U8")
"""Of alpha, which some programs write as the whole number that they were given."""
ONLY_PLAIN = "only plain LoRAs, LoKr and LoHa of the denoiser are supported"


@dataclass(frozen=True)
class LoraHeader:
    """What is known of a LoRA file without reading its weights."""

    naming: str
    """Whose names its layers have: `kohya`, `diffusers`, or another program's, for a person."""
    rank: int  # the largest, where layers differ
    layers: dict[str, Shape]  # by their names in the file
    metadata: dict[str, str]
    keys: dict[str, dict[Side, str]]
    """The keys of each layer's tensors."""
    stated: scales.Stated | None = None
    """What is stated of alpha outside of the tensors."""

    @property
    def has_alphas(self) -> bool:
        """Whether tensors state alpha."""
        return any("alpha" in sides for sides in self.keys.values())

    @property
    def scale_is_assumed(self) -> bool:
        """Return True if a file of a program that writes alpha elsewhere is read at scale 1, as no alpha was found."""
        return self.naming == "PEFT" and not self.has_alphas and self.stated is None


def write(path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Write a LoRA file atomically and return its SHA-256.

    `state` holds the pairs of all layers at scale 1; with kohya's names, their alpha is added here. The bytes depend on
    the arguments alone (safetensors' own writer puts metadata in a random order). Raises ModelUnreadable for a state
    that `read_header` would refuse, and for numbers that are not finite.
    """
    header = _header(path, {name: tuple(tensor.shape) for name, tensor in state.items()}, metadata)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if header.naming == "kohya":
        for layer, keys in header.keys.items():
            # In float32, because bfloat16 cannot hold every rank above 256.
            weights[f"{layer}.alpha"] = torch.tensor(float(len(weights[keys["down"]])))
    _check_finite(path, weights)
    plain = save({name: weights[name] for name in sorted(weights)})
    header_end = 8 + int.from_bytes(plain[:8], "little")
    entries, data = json.loads(plain[8:header_end]), plain[header_end:]
    metadata = {**metadata, "format": "pt", "sshs_model_hash": hashlib.sha256(data).hexdigest()}
    text = json.dumps({"__metadata__": dict(sorted(metadata.items())), **entries}, separators=(",", ":")).encode()
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
    """Return what a LoRA file, and PEFT's adapter_config.json beside it, say about it.

    Raises ModelUnreadable: damaged, or not a plain LoRA.
    """
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
        kind = kind_of(path) or f"{str(error)[:200]!a}"
        raise ModelUnreadable(f"{path.name} is damaged, or not a safetensors file: {kind}") from error
    except OSError as error:  # the message of safetensors is the path alone
        raise ModelUnreadable(f"{path.name} cannot be read: {error.strerror or type(error).__name__}") from error
    header = _header(path, shapes, metadata)
    alphas = {sides["alpha"] for sides in header.keys.values() if "alpha" in sides}
    for name, dtype in dtypes.items():
        if dtype not in (_NUMBERS if name in alphas else _FLOATS):
            raise ModelUnreadable(
                f"{path.name} holds {dtype} numbers in {name}; LoRA weights must be one of {', '.join(_FLOATS)}"
            )
    header = replace(header, stated=scales.stated_in(path.name, metadata))
    if header.scale_is_assumed:
        ranks = {shapes[sides["down"]][0] for sides in header.keys.values()}
        header = replace(header, stated=scales.stated_beside(path, ranks))
    return header


def read_pairs(path: Path, header: LoraHeader) -> dict[str, Pair]:
    """Return a file's layers by their names in it, with alpha folded into both factors.

    Raises ModelUnreadable: numbers that are not finite, or a statement about alpha that cannot be followed.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    unread = {keys.get("alpha") for keys in header.keys.values() if not lycoris.is_scaled(keys)}
    _check_finite(path, {name: tensor for name, tensor in tensors.items() if name not in unread})
    if header.stated is not None and header.has_alphas:
        raise ModelUnreadable(f"{path.name} has alpha both in tensors and in {header.stated.where}, unsupported")
    pairs = {}
    for layer, keys in header.keys.items():
        own = {side: tensors[name] for side, name in keys.items()}
        a, b = lycoris.pair(own) if lycoris.kind(own) else (own["down"], own["up"])
        scale = _scale(path.name, header, layer, own)
        for_a, for_b = scales.spread(scale)
        pairs[layer] = (a if for_a == 1 else a * for_a, b if for_b == 1 else b * for_b)
        if not all(factor.isfinite().all() for factor in pairs[layer]):
            raise ModelUnreadable(f"{path.name} scales {layer} by {scale:.3g}, beyond what its precision can hold")
    return pairs


def _scale(file: str, header: LoraHeader, layer: str, tensors: Mapping[Side, torch.Tensor]) -> float:
    """Return what a layer's pair is multiplied by."""
    if not lycoris.is_scaled(tensors):
        return 1.0
    rank = lycoris.alpha_divisor(tensors) if lycoris.kind(tensors) else len(tensors["down"])
    if "alpha" in tensors:
        return tensors["alpha"].item() / rank
    return 1.0 if header.stated is None else scales.stated_scale(file, header.stated, layer, rank)


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


def _header(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> LoraHeader:
    """Return the header of a file with these tensors. Raises ModelUnreadable unless they are complete pairs alone."""
    _check_kind(path, shapes)
    parsed: list[Key] = []
    keys: dict[str, dict[Side, str]] = {}
    for name, shape in shapes.items():
        key = parse(name)
        if key is None:
            raise ModelUnreadable(f"{path.name} is not a LoRA: it holds {name} {list(shape)}")
        if key.side in keys.setdefault(key.layer, {}):
            raise ModelUnreadable(f"{path.name} holds several LoRAs: {name} and {keys[key.layer][key.side]}")
        keys[key.layer][key.side] = name
        parsed.append(key)
    if not keys:
        raise ModelUnreadable(f"{path.name} holds no LoRA weights")
    layers, ranks = {}, []
    for layer, sides in keys.items():
        layers[layer], rank = _shape_and_rank(path.name, layer, {side: shapes[name] for side, name in sides.items()})
        ranks.append(rank)
    return LoraHeader(naming_of(parsed), max(ranks), layers, dict(metadata), keys)


def _shape_and_rank(file: str, layer: str, shapes: Mapping[Side, tuple[int, ...]]) -> tuple[Shape, int]:
    """Return a layer's shape and the rank of its pair. Raises ModelUnreadable unless its tensors are complete."""
    down, up = shapes.get("down", ()), shapes.get("up", ())
    if lycoris.kind(shapes):
        shape, rank = lycoris.shape_and_rank(file, layer, shapes)
    elif _is_pair(down, up):
        shape, rank = (down[1], up[0], *down[2:]), down[0]
    else:
        raise ModelUnreadable(f"{file} is incomplete: {layer} does not have a matching pair of weights")
    if shapes.get("alpha", ()) not in ((), (1,)):
        raise ModelUnreadable(f"{file} is incomplete: the alpha of {layer} is not one number")
    if shape[2:] not in ((), (1, 1)):
        size = " x ".join(map(str, shape[2:]))
        raise ModelUnreadable(f"{file} is a LoCon ({layer} is a convolution of {size} pixels): {ONLY_PLAIN}")
    return shape, rank


def _check_kind(path: Path, names: Collection[str]) -> None:
    """Raise ModelUnreadable, with what the file is, for names of something known that is no plain LoRA."""
    for name in names:
        kind = not_plain(name)
        if kind:
            raise ModelUnreadable(f"{path.name} is {kind} ({_quoted(name)}): {ONLY_PLAIN}")
    for name in names:  # names are quoted below, and the file may come from anyone
        if not _NAME.fullmatch(name):
            raise ModelUnreadable(f"{path.name} is not a LoRA: {_quoted(name)} cannot be a layer's name")
    whole = next((name for name in names if is_of_a_model(name) and parse(name) is None), None)
    if whole is not None:
        raise ModelUnreadable(f"{path.name} is not a LoRA: it holds a whole model, such as {whole}")


def _quoted(name: str) -> str:
    """Return a name for a message, the way it is written if it can be a layer's."""
    return name if _NAME.fullmatch(name) else f"{name[:60]!a}"


def _is_pair(down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    """Return True for (rank, in) and (out, rank), or for those of a convolution, neither empty.

    Of a convolution, A has the kernel and B a kernel of one pixel.
    """
    return len(down) == len(up) in (2, 4) and up[2:] in ((), (1, 1)) and down[0] == up[1] and 0 not in down + up

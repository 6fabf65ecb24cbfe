"""Reads, checks and writes the parts of a base: what every family's import from single files needs.

Weights keep their precision and their values. Tensor names tell which model it is; everything else (the sampler, the
activation, the native size) comes from configurations that a family keeps. Every tensor of a part must be present in
its size, so a file in the wrong place is refused by name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from worker.ml.errors import ModelUnreadable
from worker.ml.not_weights import kind_of
from worker.ml.single_files import fp8

Weights = dict[str, torch.Tensor]
Configs = dict[str, dict[str, Any]]
"""The configurations of a base, by their paths in its folder."""
TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
SHARD = "5GB"
_WHOLE = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "BOOL")
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_TORCH_NAMES = {"I8": "int8", "U8": "uint8", "F4": "float4_e2m1fn_x2"}
_SCALES = (".absmax", ".qweight", ".weight_scale_2")
_WRAPPERS = ("module.", "state_dict.", "_orig_mod.")


def read_weights(file: Path) -> Weights:
    """Return the tensors of a file, and of the other shards where it is one of several; float8 becomes bfloat16.

    Raises ModelUnreadable: not safetensors, damaged, quantised in another way, or without its other shards.
    """
    weights: Weights = {}
    for shard in _shards(file):
        _check_readable(shard)
        try:
            weights |= load_file(shard)
        except (OSError, SafetensorError) as error:
            raise ModelUnreadable(f"{shard.name} cannot be read: {error}") from error
    return _without_wrapper(fp8.widen(weights, file))


def read_names(file: Path) -> list[str]:
    """Return the names of the tensors, whose values are not read. Raises ModelUnreadable as `read_weights` does."""
    names: list[str] = []
    for shard in _shards(file):
        _check_readable(shard)
        with safe_open(shard, framework="pt") as content:
            names += content.keys()
    return names


def _shards(file: Path) -> list[Path]:
    """Return the file, or all of its shards. Raises ModelUnreadable: one is missing."""
    shard = re.fullmatch(r"(.+-)\d{5}(-of-(\d{5})\.safetensors)", file.name)
    if shard is None:
        return [file]
    shards = [file.with_name(f"{shard[1]}{number:05}{shard[2]}") for number in range(1, int(shard[3]) + 1)]
    missing = next((path.name for path in shards if not path.is_file()), None)
    if missing:
        raise ModelUnreadable(f"{file.name} is one of {len(shards)} shards, and {missing} is not beside it")
    return shards


def _check_readable(file: Path) -> None:
    """Raise ModelUnreadable unless this is safetensors of fractions, quantised to float8 at most, by its header."""
    if file.suffix != ".safetensors":
        kind = ": of several shards, give the first" if file.name.endswith(".index.json") else ""
        raise ModelUnreadable(
            f"{file.name}: unsupported file type, only .safetensors files are read (.ckpt and .bin are pickles){kind}"
        )
    try:
        with safe_open(file, framework="pt") as content:
            dtypes = {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelUnreadable(f"{file.name} cannot be read: {kind_of(file) or error}") from error
    if not dtypes:
        raise ModelUnreadable(f"{file.name} holds no tensors")
    weights = {name: dtype for name, dtype in dtypes.items() if not name.endswith(fp8.DESCRIPTION)}
    small = sorted({_TORCH_NAMES.get(dtype, dtype) for dtype in weights.values() if dtype not in _WHOLE + _FLOAT8})
    if small:
        raise ModelUnreadable(f"{file.name} is quantised ({', '.join(small)}): use the file in bf16, fp16 or fp8")
    scale = next((name for name in dtypes if name.endswith(_SCALES)), None)
    if scale is not None:
        raise ModelUnreadable(f"{file.name} is quantised (it holds {scale}): use the file in bf16, fp16 or fp8")


def _without_wrapper(weights: Weights) -> Weights:
    """Return the weights without the names that training programs put before all of them."""
    while wrapper := next((name for name in _WRAPPERS if all(key.startswith(name) for key in weights)), None):
        weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights


def below(weights: Weights, *prefixes: str) -> Weights:
    """Return the weights below the first of these prefixes that is used, or all of them if none is."""
    for prefix in prefixes:
        below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if below:
            return below
    return weights


def without_views(weights: Weights) -> Weights:
    """Return the weights with views copied: a third of a fused layer would be saved with the whole of its storage."""
    views = {name for name, tensor in weights.items() if tensor.untyped_storage().nbytes() > tensor.nbytes}
    return {name: tensor.clone() if name in views else tensor for name, tensor in weights.items()}


def read_configs(published: Sequence[Path], own: Path | None) -> Configs:
    """Return a published model's configurations, from several files where a later one replaces parts of an earlier.

    Those of `own`, a folder in diffusers layout, replace them. Raises ModelUnreadable: one is damaged.
    """
    plan: Configs = {}
    for path in published:
        plan |= json.loads(path.read_text("utf-8"))
    if own is not None:
        plan |= {path: _read_config(own / path) for path in plan if (own / path).is_file()}
    return plan


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelUnreadable(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelUnreadable(f"{path} is not a configuration: it holds no JSON object")
    return config


def write_configs(target: Path, plan: Configs) -> None:
    """Write the configurations into the base's folder."""
    for name, config in plan.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def copy_tokenizers(target: Path, source: Path, folders: Sequence[str]) -> None:
    """Copy the tokenizers, which weights do not contain, into the base's folder. Raises ModelUnreadable: not found."""
    for part in folders:
        files = [path for pattern in TOKENIZER_FILES for path in sorted((source / part).glob(pattern))]
        if not files:
            raise ModelUnreadable(
                f"{part} not found in {source}: weight files do not contain tokenizers. Use the folders "
                f"{' and '.join(folders)} of the model's repository in diffusers layout, or of a base that was pulled"
            )
        (target / part).mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, target / part / path.name)


def write_part(target: Path, part: str, weights: Weights, shapes: Mapping[str, torch.Size], file: Path) -> None:
    """Write a part's weights. Raises ModelUnreadable unless these are exactly its tensors, of finite numbers."""
    missing = [name for name in shapes if name not in weights]
    unknown = [name for name in weights if name not in shapes]
    if missing or unknown:
        reason = (
            f"{len(missing)} tensors are missing, such as {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
        )
        raise ModelUnreadable(f"{file.name} is not a {part} of this family: {reason}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ModelUnreadable(
                f"{file.name} is not a {part} of this size: {name} is {list(weights[name].shape)}, not {list(shape)}"
            )
        if not weights[name].is_floating_point():
            raise ModelUnreadable(f"{file.name} holds {weights[name].dtype} numbers in {name}: weights are fractions")
        if not weights[name].isfinite().all():
            raise ModelUnreadable(f"{file.name} holds numbers that are not finite, in {name}: it is damaged")
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    contiguous = {name: weights[name].contiguous() for name in shapes}
    save_torch_state_dict(
        contiguous, target / part, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=SHARD
    )


def shapes_of(build: Callable[[], torch.nn.Module]) -> dict[str, torch.Size]:
    """Return the size of every parameter of a model by name, without allocating it."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in build().named_parameters()}

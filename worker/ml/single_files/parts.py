"""Reads, checks and writes the parts of a base: what every family's import from single files needs.

Weights keep their precision and their values. Tensor names tell which model it is; everything else (the sampler, the
activation, the native size) comes from configurations that a family keeps. Every tensor of a part must be present in
its size, so a file in the wrong place is refused by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from worker.ml.errors import ModelUnreadable

Weights = dict[str, torch.Tensor]
Configs = dict[str, dict[str, Any]]
"""The configurations of a base, by their paths in its folder."""
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
SHARD = "5GB"


def read_weights(file: Path) -> Weights:
    """Return the tensors of a file. Raises ModelUnreadable: not safetensors, damaged, or quantised."""
    if file.suffix != ".safetensors":
        raise ModelUnreadable(
            f"{file.name}: unsupported file type, only .safetensors files are read (.ckpt and .bin are pickles)"
        )
    try:
        weights: Weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelUnreadable(f"{file.name} cannot be read: {error}") from error
    small = sorted({str(tensor.dtype) for tensor in weights.values() if tensor.dtype.itemsize < 2})
    if small:
        raise ModelUnreadable(
            f"{file.name} is quantised ({', '.join(small).replace('torch.', '')}): use the file in bf16, fp16 or fp32"
        )
    return weights


def below(weights: Weights, prefix: str) -> Weights:
    """Return the weights below a prefix, or all of them if the prefix is not used."""
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return below or weights


def read_configs(published: Sequence[Path], own: Path | None) -> Configs:
    """Return a published model's configurations, from several files where a later one replaces parts of an earlier.

    Those of `own`, a folder in diffusers layout, replace them.
    """
    plan: Configs = {}
    for path in published:
        plan |= json.loads(path.read_text("utf-8"))
    if own is not None:
        plan |= {path: json.loads((own / path).read_text("utf-8")) for path in plan if (own / path).is_file()}
    return plan


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
    """Write a part's weights. Raises ModelUnreadable unless these are exactly its tensors."""
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
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    contiguous = {name: weights[name].contiguous() for name in shapes}
    save_torch_state_dict(
        contiguous, target / part, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=SHARD
    )


def shapes_of(build: Callable[[], torch.nn.Module]) -> dict[str, torch.Size]:
    """Return the size of every parameter of a model by name, without allocating it."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in build().named_parameters()}

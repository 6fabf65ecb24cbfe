"""A base at the geometry of its configurations, with random weights made on the device.

Built empty with accelerate, then filled part by part: nothing is downloaded, and the host never holds float32 copies.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from transformers import AutoTokenizer, PretrainedConfig

from tools.gpu_check.measure import timed
from worker.ml.single_files.parts import Configs


@dataclass(frozen=True)
class BuiltPart:
    """What building one part took."""

    seconds: float
    computed_bytes: int
    """Of its parameters and buffers, from the configuration alone."""
    device_bytes: int
    """What torch allocated for it; on a CPU, the size of its tensors."""


def build(
    configs: Configs, tokenizers: Path, device: torch.device, dtypes: Mapping[str, torch.dtype]
) -> tuple[Any, dict[str, BuiltPart]]:
    """Return a diffusers pipeline whose parts were made on the device and then moved to the host.

    `configs` are those of a folder in diffusers layout, by path. `tokenizers` is a base's folder: small vocabularies
    do, since prompts are padded to the tokenizer's length. `dtypes` are by part, "default" for all others.
    """
    parts: dict[str, Any] = {}
    report: dict[str, BuiltPart] = {}
    index = configs["model_index.json"]
    for name, (library, class_name) in ((name, kind) for name, kind in index.items() if isinstance(kind, list)):
        config = configs.get(f"{name}/config.json")
        if config is not None:
            cls = getattr(importlib.import_module(library), class_name)
            module, report[name] = _build_part(cls, config, device, dtypes.get(name, dtypes["default"]))
            parts[name] = module.cpu()
        elif name == "scheduler":
            parts[name] = getattr(diffusers, class_name).from_config(configs["scheduler/scheduler_config.json"])
        elif name.startswith("tokenizer"):
            parts[name] = AutoTokenizer.from_pretrained(tokenizers / name, local_files_only=True)
        else:
            parts[name] = None
    settings = {name: value for name, value in index.items() if name == "requires_safety_checker"}
    return getattr(diffusers, index["_class_name"])(**parts, **settings), report


def _build_part(
    cls: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> tuple[torch.nn.Module, BuiltPart]:
    with init_empty_weights():
        transformers_config: type[PretrainedConfig] | None = getattr(cls, "config_class", None)
        module = cls(transformers_config.from_dict(config)) if transformers_config else cls.from_config(config)
    module.eval().requires_grad_(False)
    _tie(module)
    computed = sum(parameter.numel() * dtype.itemsize for parameter in module.parameters())
    computed += sum(buffer.nbytes for buffer in module.buffers())
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    _, seconds = timed(device, lambda: _fill(module, device, dtype))
    if device.type == "cuda":
        taken = torch.cuda.memory_allocated(device) - before
    else:
        taken = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    return module, BuiltPart(seconds, computed, taken)


@torch.no_grad()
def _fill(module: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Give every layer weights that keep the size of what it reads, so that numbers stay finite through all blocks."""
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(module.named_parameters()):
        if parameter.ndim > 1:
            value = fan_in_normal(parameter.shape, generator, dtype)
        else:
            value = torch.full(
                parameter.shape, float(name.endswith("weight")), dtype=dtype, device=device
            )  # norms, biases
        set_module_tensor_to_device(module, name, device, value, dtype, clear_cache=False)
    _tie(module)
    module.requires_grad_(False).to(device)  # and its buffers


def _tie(module: Any) -> None:
    """Tie weights again that setting one of them parted, in models of transformers; those of diffusers have none."""
    if hasattr(module, "tie_weights"):
        module.tie_weights()


def fan_in_normal(shape: torch.Size, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normal weights of variance 1 / inputs, on the generator's device."""
    weights = torch.empty(shape, dtype=dtype, device=generator.device)
    return weights.normal_(0, math.prod(shape[1:]) ** -0.5, generator=generator)

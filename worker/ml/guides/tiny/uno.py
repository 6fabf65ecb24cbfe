"""An untrained UNO LoRA for a base: it proves that code paths work, nothing about how references are followed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from worker.ml.guides.uno_lora import IN_DOUBLE_BLOCKS, IN_SINGLE_BLOCKS
from worker.ml.models import Base

FILE = "dit_lora.safetensors"


def build_tiny(folder: Path, base: Base, *, rank: int = 4, strength: float = 0.25, seed: int = 0) -> None:
    """Write a LoRA for this base to the folder, in the published file's names."""
    config, width = base.denoiser.config, base.denoiser.inner_dim
    generator = torch.Generator("cpu").manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for blocks, count, layers in (
        ("double_blocks", config.num_layers, IN_DOUBLE_BLOCKS),
        ("single_blocks", config.num_single_layers, IN_SINGLE_BLOCKS),
    ):
        for layer in layers:
            kind = layer.rstrip("12")
            inputs = 5 * width if layer == "proj" else width  # a single block's reads its feed-forward layer too
            outputs = 3 * width if kind == "qkv" else width
            for block in range(count):
                name = f"{blocks}.{block}.processor.{kind}_lora{layer.removeprefix(kind)}"
                weights[f"{name}.down.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
                weights[f"{name}.up.weight"] = torch.randn(outputs, rank, generator=generator) * strength
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / FILE)

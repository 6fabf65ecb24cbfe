"""A tiny Real-ESRGAN network for tests, in the official layout."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from worker.ml import kernels


def build_tiny(path: Path, scale: int, seed: int = 0) -> None:
    """Write a network of one block in the official key layout, x2 or x4, whose pictures a person recognises.

    Three channels pass the picture through, interpolated and sharpened on the way; random weights add some texture.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    filters, growth = 16, 32  # spandrel's network always grows by 32
    colours = 12 if scale == 2 else 3  # the x2 layout folds 2x2 pixels into channels first
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, carried: torch.Tensor | None = None) -> None:
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.02
        weight -= weight.mean((2, 3), keepdim=True)  # texture without a tint
        if carried is not None:
            weight[: carried.shape[0], : carried.shape[1]] += carried
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, torch.zeros(outputs)

    interpolated = kernels.each(3, kernels.BETWEEN)
    conv("conv_first", colours, filters, kernels.each(colours, kernels.SAME))
    for part in (1, 2, 3):
        for layer in (1, 2, 3, 4, 5):
            inputs = filters + (layer - 1) * growth
            conv(f"body.0.rdb{part}.conv{layer}", inputs, growth if layer < 5 else filters)
    conv("conv_body", filters, filters)
    conv("conv_up1", filters, filters, kernels.unfold() if scale == 2 else interpolated)
    conv("conv_up2", filters, filters, interpolated)
    conv("conv_hr", filters, filters, kernels.each(3, kernels.SAME))
    conv("conv_last", filters, 3, kernels.each(3, kernels.SHARPER))
    save_file(state, path)

"""A network in float16 on a GPU, and in float32 where numbers leave the range of float16."""

from __future__ import annotations

from typing import Any

import torch

from worker.ml.errors import NotFinite


def prepare(network: torch.nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Move a network to its device for inference; by default in float16 on a GPU, as the official tool does.

    In float16, an evaluation that gives numbers that are not finite is repeated in float32. Raises ValueError for
    weights that are not finite themselves. An evaluation raises NotFinite if float32 is not enough.
    """
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    network.eval().requires_grad_(False).to(device, dtype)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)
    if not all(weights.isfinite().all() for weights in network.parameters()):
        raise ValueError(f"some weights are not finite in {str(dtype).removeprefix('torch.')}")
    network.register_forward_hook(_again_in_float32)


def _again_in_float32(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], result: torch.Tensor) -> Any:
    """Return the result of an evaluation if it is finite, else that of the same weights in float32. Raises NotFinite.

    Before anything clamps it: clamped to a picture's range, an overflow is a white pixel.
    """
    if result.isfinite().all():
        return result
    if result.dtype == torch.float16:
        network.float()
        try:
            again = network.forward(*(value.float() for value in inputs))
        finally:
            network.half()  # loses nothing: the weights came from float16
        if again.isfinite().all():
            return again
    raise NotFinite("the upscaler gives numbers that are not finite: install its official weights again")

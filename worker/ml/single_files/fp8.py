"""Weights in 8-bit floating point, as ComfyUI and the models' makers publish them, widened to bfloat16.

Some are weights rounded to float8, no more. Others have a scale beside each weight, one number or one for each output,
by which it is multiplied: in older files `scale_weight`, and the file holds the marker `scaled_fp8`; in newer ones
`weight_scale`, and `comfy_quant` describes the layer. The scales of a layer's inputs are for programs that also
multiply in 8 bits.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from worker.ml.errors import ModelUnreadable

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
DESCRIPTION = ".comfy_quant"
_WEIGHT_SCALES = (".scale_weight", ".weight_scale")
_INPUT_SCALES = (".scale_input", ".input_scale")
_MARKER = "scaled_fp8"
_KNOWN_SETTINGS = {"format", "full_precision_matrix_mult"}


def widen(weights: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Return the weights with those in float8 as bfloat16, and without what described them.

    Raises ModelUnreadable for a layer that is stored in another way.
    """
    if not any(tensor.dtype in FLOAT8 for tensor in weights.values()):
        return weights
    scales: dict[str, torch.Tensor] = {}
    widened: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        layer, _, what = name.rpartition(".")
        if name.endswith(DESCRIPTION):
            _check_description(layer, tensor, file)
        elif name.endswith(_WEIGHT_SCALES):
            scales[f"{layer}.weight"] = tensor
        elif not name.endswith(_INPUT_SCALES) and what != _MARKER:
            widened[name] = tensor
    for name, scale in scales.items():
        if name not in widened:
            raise ModelUnreadable(f"{file.name} holds a scale for {name}, but not the weight: it is incomplete")
        widened[name] = _scaled(name, widened[name], scale, file)
    return {name: tensor.bfloat16() if tensor.dtype in FLOAT8 else tensor for name, tensor in widened.items()}


def _check_description(layer: str, described: torch.Tensor, file: Path) -> None:
    """Raise ModelUnreadable unless a layer is stored as float8 and in no other way, such as rotated."""
    try:
        settings = json.loads(bytes(described.tolist()))
        known = settings["format"].startswith("float8_") and settings.keys() <= _KNOWN_SETTINGS
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelUnreadable(f"{file.name} describes {layer} in a way that cannot be read") from error
    if not known:
        raise ModelUnreadable(f"{file.name} is quantised ({settings['format']}): use the file in bf16, fp16 or fp8")


def _scaled(name: str, weight: torch.Tensor, scale: torch.Tensor, file: Path) -> torch.Tensor:
    if scale.numel() not in (1, weight.shape[0]):
        raise ModelUnreadable(
            f"{file.name} is quantised in blocks ({name} has {scale.numel()} scales): use the file in bf16 or fp16"
        )
    scaled = weight.float() * scale.float().reshape([-1] + [1] * (weight.ndim - 1))
    return scaled.to(torch.bfloat16 if weight.dtype in FLOAT8 else weight.dtype)

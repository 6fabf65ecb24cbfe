"""The scale of a LoRA's layers, and where a file's metadata states it: `lora_adapter_metadata`, as diffusers writes it.

It is PEFT's LoraConfig as JSON, with the component before each name, such as `transformer.lora_alpha`; without one if
a model was saved instead of a pipeline.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from worker.ml.errors import ModelUnreadable

STATED = "lora_adapter_metadata"
_LARGEST = 3e38
"""An alpha of float32; also not NaN, and no integer beyond floats."""

_LAYERS = re.compile(r"[A-Za-z0-9_.]+")  # PEFT takes regular expressions too, which a file from anyone may not bring


def stated_config(file: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the metadata states, None for nothing. Raises ModelUnreadable if it is damaged."""
    if STATED not in metadata:
        return None
    try:
        config = json.loads(metadata[STATED])
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelUnreadable(f"{file} is damaged: its {STATED} is not a JSON object")
    return config


def stated_scale(file: str, config: Mapping[str, Any], layer: str, rank: int) -> float:
    """Return the scale of a layer in diffusers' names, as PEFT applies it. Raises ModelUnreadable: not stated."""
    component = f"{layer.partition('.')[0]}."
    if f"{component}lora_alpha" not in config and "lora_alpha" in config:
        component = ""
    alpha = config.get(f"{component}lora_alpha")
    patterns = config.get(f"{component}alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_LAYERS.fullmatch(name) for name in patterns):
        raise ModelUnreadable(f"{file} has an alpha_pattern in its {STATED} that is not by layers' names: unsupported")
    alpha = next((own for name, own in patterns.items() if f".{layer}".endswith(f".{name}")), alpha)
    if not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST:
        raise ModelUnreadable(f"{file} states no alpha for {layer} in its {STATED}")
    return alpha / (math.sqrt(rank) if config.get(f"{component}use_rslora") else rank)


def spread(scale: float) -> tuple[float, float]:
    """Return factors for A and B whose product is this scale, of similar size, the one for B a power of two.

    A small scale on one factor alone would leave the range of float16.
    """
    if scale == 0:
        return 0.0, 0.0
    for_b = 2.0 ** round(math.log2(abs(scale)) / 2)
    return scale / for_b, for_b

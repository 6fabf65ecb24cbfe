"""The scale of a LoRA's layers, and where it is stated outside of its tensors, as PEFT's LoraConfig in JSON.

diffusers writes it into the file's metadata, as `lora_adapter_metadata`, with the component before each name, such as
`transformer.lora_alpha`; without one if a model was saved instead of a pipeline. PEFT writes it as
`adapter_config.json` into the file's folder, and nothing into the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.ml.errors import ModelUnreadable

IN_METADATA = "lora_adapter_metadata"
_BESIDE = "adapter_config.json"
_LARGEST = 3e38
"""An alpha of float32; also not NaN, and no integer beyond floats."""

_LAYERS = re.compile(r"[A-Za-z0-9_.]+")  # PEFT takes regular expressions too, which a file from anyone may not bring


@dataclass(frozen=True)
class Stated:
    """What is stated of a file's LoRA outside of its tensors."""

    where: str
    """For a person, such as "its lora_adapter_metadata"."""
    config: Mapping[str, Any]


def stated_in(file: str, metadata: Mapping[str, str]) -> Stated | None:
    """Return what the metadata states, None for nothing. Raises ModelUnreadable if it is damaged."""
    if IN_METADATA not in metadata:
        return None
    return _stated(file, f"its {IN_METADATA}", metadata[IN_METADATA])


def stated_beside(path: Path, ranks: Collection[int]) -> Stated | None:
    """Return what the adapter_config.json in the folder of a file with layers of these ranks states, None without one.

    Raises ModelUnreadable: it cannot be read, or is not of this LoRA.
    """
    where = f"the {_BESIDE} beside it"
    try:
        stated = _stated(path.name, where, (path.parent / _BESIDE).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelUnreadable(f"{path.name} cannot be read with {where}: {error.strerror}") from error
    kind, rank, patterns = (stated.config.get(name) for name in ("peft_type", "r", "rank_pattern"))
    if kind != "LORA":
        raise ModelUnreadable(f"{path.name} is not a plain LoRA: {where} has peft_type {str(kind)[:60]!a}, not LORA")
    known = [rank, *patterns.values()] if isinstance(patterns, dict) else [rank]
    for own in ranks:
        if own not in known:
            raise ModelUnreadable(
                f"{path.name} has layers of rank {own}, and {where} is of a LoRA of rank {rank!a:.60}"
            )
    return stated


def _stated(file: str, where: str, text: str | bytes) -> Stated:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelUnreadable(f"{file} is damaged: {where} is not a JSON object")
    return Stated(where, config)


def stated_scale(file: str, stated: Stated, layer: str, rank: int) -> float:
    """Return the scale of a layer by its name in the file, as PEFT applies it.

    Raises ModelUnreadable: not stated, or of a DoRA.
    """
    config, where = stated.config, stated.where
    component = f"{layer.partition('.')[0]}."
    if f"{component}lora_alpha" not in config and "lora_alpha" in config:
        component = ""
    if config.get(f"{component}use_dora"):
        raise ModelUnreadable(f"{file} is a DoRA without its magnitudes: use_dora is set in {where}")
    alpha = config.get(f"{component}lora_alpha")
    patterns = config.get(f"{component}alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_LAYERS.fullmatch(name) for name in patterns):
        raise ModelUnreadable(f"{file} has an alpha_pattern in {where} that is not by layers' names: unsupported")
    alpha = next((own for name, own in patterns.items() if f".{layer}".endswith(f".{name}")), alpha)
    if not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST:
        raise ModelUnreadable(f"{file} states no alpha for {layer} in {where}")
    return alpha / (math.sqrt(rank) if config.get(f"{component}use_rslora") else rank)


def spread(scale: float) -> tuple[float, float]:
    """Return factors for A and B whose product is this scale, of similar size, the one for B a power of two.

    A small scale on one factor alone would leave the range of float16.
    """
    if scale == 0:
        return 0.0, 0.0
    for_b = 2.0 ** round(math.log2(abs(scale)) / 2)
    return scale / for_b, for_b

"""The families that this worker can train and generate with."""

from __future__ import annotations

import json
from pathlib import Path

from worker.ml.errors import ModelUnreadable
from worker.ml.families.flux1 import Flux
from worker.ml.families.klein import Klein
from worker.ml.families.qwen_image import QwenImage
from worker.ml.families.sd15 import StableDiffusion15
from worker.ml.families.sdxl import StableDiffusionXL
from worker.ml.families.z_image import ZImage
from worker.ml.protocol import Family

FAMILIES: dict[str, Family] = {
    family.name: family for family in (Flux(), Klein(), QwenImage(), StableDiffusion15(), StableDiffusionXL(), ZImage())
}


def family_of(folder: Path) -> Family:
    """Return the family of a base in diffusers layout, from its `model_index.json`.

    Raises ModelUnreadable: folder not found, not a diffusers base, or an unsupported family.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelUnreadable(f"{folder} is not a base model: model_index.json is missing")
    try:
        pipeline = json.loads(index.read_text("utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelUnreadable(f"{index} is damaged: it does not name a pipeline class") from error
    by_pipeline = {family.pipeline: family for family in FAMILIES.values()}
    if pipeline not in by_pipeline:
        raise ModelUnreadable(
            f"{folder} is a {pipeline}, which is unsupported; supported: {', '.join(sorted(by_pipeline))}"
        )
    return by_pipeline[pipeline]

"""Whole models that people have in one file, told by the names of their tensors, to call a wrong one by its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from worker.ml.errors import ModelUnreadable

FLUX, FLUX2, LDM, SDXL = "FLUX.1", "FLUX.2", "Stable Diffusion 1.x", "SDXL"
QWEN_IMAGE, Z_IMAGE = "Qwen-Image", "Z-Image"
_KINDS = (  # the first whose pattern one of the names has
    (
        "a LoRA (see `worker lora import`)",
        r"\.(lora_[AB]|lora_up|lora_down|lora\.up|lora\.down)(\.weight)?$|\.hada_|\.lokr_",
    ),
    ("a control network", r"^(control_model|controlnet_\w+)\."),
    ("an upscaler", r"^(conv_first|body\.0\.rdb1)\."),
    (SDXL, r"^conditioner\.embedders\.|(^|\.)(add_embedding|label_emb)\."),
    ("Stable Diffusion 2", r"^cond_stage_model\.model\."),
    ("Stable Diffusion 3", r"(^|\.)joint_blocks\."),
    ("Chroma", r"(^|\.)distilled_guidance_layer\."),
    (FLUX2, r"(^|\.)double_stream_modulation"),
    (Z_IMAGE, r"(^|\.)(noise_refiner|cap_embedder)\."),
    (QWEN_IMAGE, r"transformer_blocks\.0\.(img|txt)_mod\."),
    (FLUX, r"(^|\.)(double_blocks|single_transformer_blocks)\.0\."),
    (LDM, r"(^|\.)input_blocks\.0\.0\."),
    ("a U-Net in diffusers' names: use the folder of the whole model", r"(^|\.)down_blocks\.0\.attentions\."),
    ("an autoencoder", r"^encoder\.(down|down_blocks|downsamples)\."),
    ("CLIP", r"(^|\.)text_model\.|^encoder\.layers\.0\.self_attn\."),
    ("T5", r"(^|\.)encoder\.block\.0\."),
    ("Qwen2.5-VL", r"(^|\.)visual\.blocks\.0\.attn\."),
    ("Qwen3", r"(^|\.)model\.layers\.0\.self_attn\.q_norm\."),
)


def kind_of(names: Collection[str]) -> str | None:
    """Return what has tensors of these names, None if it is unknown."""
    return next((kind for kind, own in _KINDS if any(re.search(own, name) for name in names)), None)


def check(file: Path, part: str, names: Collection[str], wanted: str) -> None:
    """Raise ModelUnreadable if the file is known to be another kind than is wanted for this part."""
    found = kind_of(names)
    if found not in (wanted, None):
        raise ModelUnreadable(f"{file.name} is not a {part} of this family: it is {found}")

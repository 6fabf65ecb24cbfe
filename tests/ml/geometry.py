"""Published base models at their real geometry, on the meta device: they have shapes and no weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers

from worker.ml.families import single_files
from worker.ml.families.qwen_image import language_model
from worker.ml.families.registry import FAMILIES
from worker.ml.protocol import Family

CONFIGS = Path(single_files.__file__).parent


def on_meta(slug: str) -> tuple[Family, Any]:
    """Return a published base's family, and its parts in bfloat16."""
    configs = json.loads((CONFIGS / f"{slug}.json").read_text("utf-8"))
    family = FAMILIES[{"flux-dev": "flux"}.get(slug, slug)]
    modules = {}
    with torch.device("meta"):
        for name in (family.denoiser, family.autoencoder):
            config = configs[f"{name}/config.json"]
            modules[name] = getattr(diffusers, config["_class_name"]).from_config(config)
        for name in family.encoders:
            model = getattr(transformers, configs["model_index.json"][name][1])
            modules[name] = model(model.config_class.from_dict(configs[f"{name}/config.json"]))
    if slug == "qwen-image":
        modules["text_encoder"] = language_model(modules["text_encoder"])
    for module in modules.values():
        module.to(torch.bfloat16).eval().requires_grad_(False)
    pipeline = getattr(diffusers, family.pipeline)
    return family, SimpleNamespace(
        **modules,
        components=modules,
        vae_scale_factor=8,
        tokenizer=SimpleNamespace(model_max_length=131072),
        tokenizer_2=SimpleNamespace(model_max_length=512),
        _prepare_latent_image_ids=getattr(pipeline, "_prepare_latent_image_ids", None),
        _unpack_latents=getattr(pipeline, "_unpack_latents", None),
    )

"""Stable Diffusion 1.5 from one checkpoint, in the names of the original code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from worker.ml.errors import ModelUnreadable
from worker.ml.single_files import parts, shared_parts

PUBLISHED = (Path(__file__).parent / "sd15.json",)


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import a `checkpoint`; a `vae` file replaces its own. Raises ModelUnreadable, naming the file."""
    file = files["checkpoint"]
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    plan = parts.read_configs(PUBLISHED, configs)
    parts.write_configs(target, plan)
    unet = {name: tensor for name, tensor in weights.items() if name.startswith("model.diffusion_model.")}
    try:
        converted = convert_ldm_unet_checkpoint(unet, dict(plan["unet/config.json"]))
    except KeyError as error:
        raise ModelUnreadable(f"{file.name} is not a Stable Diffusion 1.5 checkpoint: {error} is missing") from error
    parts.write_part(target, "unet", converted, unet_shapes(plan), file)
    vae_file = files.get("vae", file)
    vae = parts.read_weights(vae_file) if "vae" in files else parts.below(weights, "first_stage_model.")
    autoencoder = shared_parts.autoencoder(vae, plan)
    parts.write_part(target, "vae", autoencoder, shared_parts.autoencoder_shapes(plan), vae_file)
    clip = shared_parts.clip(parts.below(weights, "cond_stage_model.transformer."))
    parts.write_part(target, "text_encoder", clip, shared_parts.clip_shapes(plan), file)


def unet_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: UNet2DConditionModel.from_config(plan["unet/config.json"]))

"""Stable Diffusion 1.5 from one checkpoint, in the names of the original code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import kinds
from worker.ml.single_files import parts, shared_parts

UNET = "model.diffusion_model."
PUBLISHED = (Path(__file__).parent / "sd15.json",)


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import a `checkpoint`; a `vae` file replaces its own. Raises ModelUnreadable, naming the file."""
    file = files["checkpoint"]
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    plan = parts.read_configs(PUBLISHED, configs)
    parts.write_configs(target, plan)
    _check_checkpoint(file, weights)
    unet = {f"{UNET}{name}": tensor for name, tensor in parts.below(weights, UNET, "diffusion_model.").items()}
    try:
        converted = convert_ldm_unet_checkpoint(unet, dict(plan["unet/config.json"]))
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ModelUnreadable(f"{file.name} is not a Stable Diffusion 1.5 checkpoint: {error} is missing") from error
    parts.write_part(target, "unet", converted, unet_shapes(plan), file)
    vae_file = files.get("vae", file)
    vae = parts.read_weights(vae_file) if "vae" in files else _inside(file, weights, "first_stage_model.", "vae")
    autoencoder = shared_parts.autoencoder(vae, plan, vae_file)
    parts.write_part(target, "vae", autoencoder, shared_parts.autoencoder_shapes(plan), vae_file)
    clip = shared_parts.clip(_inside(file, weights, "cond_stage_model.transformer.", "text_encoder"))
    parts.write_part(target, "text_encoder", clip, shared_parts.clip_shapes(plan), file)


def _check_checkpoint(file: Path, weights: parts.Weights) -> None:
    """Raise ModelUnreadable, with what the file is, for another model or a U-Net with more inputs."""
    kinds.check(file, "checkpoint", weights, kinds.LDM)
    first = parts.below(weights, UNET, "diffusion_model.").get("input_blocks.0.0.weight")
    if first is not None and first.ndim == 4 and first.shape[1] != 4:
        uses = {5: "depth", 8: "edits by instruction (InstructPix2Pix)", 9: "inpainting"}
        use = uses.get(first.shape[1], "another use")
        raise ModelUnreadable(
            f"{file.name} is a model for {use}: its U-Net has {first.shape[1]} input channels instead of 4"
        )


def _inside(file: Path, weights: parts.Weights, prefix: str, part: str) -> parts.Weights:
    """Return the weights of a part below its prefix. Raises ModelUnreadable: the checkpoint lacks it."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not inside:
        remedy = ": give one with --vae" if part == "vae" else ": use a complete checkpoint"
        raise ModelUnreadable(f"{file.name} holds no {part}{remedy}")
    return inside


def unet_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: UNet2DConditionModel.from_config(plan["unet/config.json"]))

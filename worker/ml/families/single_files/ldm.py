"""One checkpoint in the names of the original latent diffusion code: what Stable Diffusion 1.x's and SDXL's share."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import kinds
from worker.ml.single_files import parts, shared_parts

UNET = "model.diffusion_model."


def check_checkpoint(file: Path, weights: parts.Weights, wanted: str) -> None:
    """Raise ModelUnreadable, with what the file is, for another model or a U-Net with more inputs."""
    kinds.check(file, "checkpoint", weights, wanted)
    first = parts.below(weights, UNET, "diffusion_model.").get("input_blocks.0.0.weight")
    if first is not None and first.ndim == 4 and first.shape[1] != 4:
        uses = {5: "depth", 8: "edits by instruction (InstructPix2Pix)", 9: "inpainting"}
        use = uses.get(first.shape[1], "another use")
        raise ModelUnreadable(
            f"{file.name} is a model for {use}: its U-Net has {first.shape[1]} input channels instead of 4"
        )


def write_unet(target: Path, file: Path, weights: parts.Weights, plan: parts.Configs, wanted: str) -> None:
    """Write the checkpoint's U-Net in diffusers' names. Raises ModelUnreadable."""
    unet = {f"{UNET}{name}": tensor for name, tensor in parts.below(weights, UNET, "diffusion_model.").items()}
    try:
        converted = convert_ldm_unet_checkpoint(unet, dict(plan["unet/config.json"]))
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ModelUnreadable(f"{file.name} is not a {wanted} checkpoint: {error} is missing") from error
    parts.write_part(target, "unet", converted, unet_shapes(plan), file)


def write_vae(target: Path, file: Path, weights: parts.Weights, plan: parts.Configs, instead: Path | None) -> None:
    """Write the autoencoder of the checkpoint, or of another file instead of its own. Raises ModelUnreadable."""
    vae_file = file if instead is None else instead
    vae = inside(file, weights, "first_stage_model.", "vae") if instead is None else parts.read_weights(instead)
    autoencoder = shared_parts.autoencoder(vae, plan, vae_file)
    parts.write_part(target, "vae", autoencoder, shared_parts.autoencoder_shapes(plan), vae_file)


def inside(file: Path, weights: parts.Weights, prefix: str, part: str) -> parts.Weights:
    """Return the weights of a part below its prefix. Raises ModelUnreadable: the checkpoint lacks it."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not inside:
        remedy = ": give one with --vae" if part == "vae" else ": use a complete checkpoint"
        raise ModelUnreadable(f"{file.name} holds no {part}{remedy}")
    return inside


def unet_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: UNet2DConditionModel.from_config(plan["unet/config.json"]))

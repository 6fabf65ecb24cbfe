"""SDXL from one checkpoint, in the names of the original code: as Civitai and ComfyUI have it.

Its first text encoder has transformers' names, the second those of OpenCLIP, with query, key and value in one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import kinds, ldm
from worker.ml.single_files import parts, shared_parts

PUBLISHED = (Path(__file__).parent / "sdxl.json",)
SECOND = "conditioner.embedders.1.model."


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import a `checkpoint`; a `vae` file replaces its own. Raises ModelUnreadable, naming the file."""
    file = files["checkpoint"]
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    plan = parts.read_configs(PUBLISHED, configs)
    plan["scheduler/scheduler_config.json"] |= _prediction(weights)
    parts.write_configs(target, plan)
    ldm.check_checkpoint(file, weights, kinds.SDXL)
    ldm.write_unet(target, file, weights, plan, "SDXL")
    ldm.write_vae(target, file, weights, plan, files.get("vae"))
    clip = shared_parts.clip(ldm.inside(file, weights, "conditioner.embedders.0.transformer.", "text_encoder"))
    parts.write_part(target, "text_encoder", clip, shared_parts.clip_shapes(plan), file)
    parts.write_part(target, "text_encoder_2", _open_clip(file, weights), second_encoder_shapes(plan), file)


def _prediction(weights: parts.Weights) -> dict[str, object]:
    """Return what empty tensors of these names say about the checkpoint, as ComfyUI reads them."""
    if "v_pred" not in weights:
        return {}
    return {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in weights}


def _open_clip(file: Path, weights: parts.Weights) -> parts.Weights:
    """Return the second text encoder in transformers' names. Raises ModelUnreadable: the checkpoint lacks it."""
    second = {f"{SECOND}{name}": tensor for name, tensor in ldm.inside(file, weights, SECOND, "text_encoder_2").items()}
    if f"{SECOND}text_projection" not in second:
        raise ModelUnreadable(f"{file.name} holds no text_projection of its second text encoder: it is incomplete")
    converted: parts.Weights = convert_open_clip_checkpoint(None, second, SECOND)
    return converted


def second_encoder_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    config = CLIPTextConfig.from_dict(plan["text_encoder_2/config.json"])
    return parts.shapes_of(lambda: CLIPTextModelWithProjection(config))

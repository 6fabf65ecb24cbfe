"""Qwen-Image from three files: the transformer, its own autoencoder, and the text encoder Qwen2.5-VL-7B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import kinds
from worker.ml.single_files import parts

PUBLISHED = (Path(__file__).parent / "qwen-image.json",)
_IN_FILES = {"model.language_model.": "model.", "model.visual.": "visual."}
"""What names of the text encoder begin with in memory, and in files."""


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import `transformer`, `vae` and `qwen25vl`. Raises ModelUnreadable, naming the file, for one of the wrong kind.

    The weights of Qwen-Image-Edit have the same names: only the file's name tells.
    """
    file = files["transformer"]
    if "edit" in file.stem.lower():
        raise ModelUnreadable(f"{file.name} is not a transformer of this family: by its name it is Qwen-Image-Edit")
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    kinds.check(file, "transformer", weights, kinds.QWEN_IMAGE)
    plan = parts.read_configs(PUBLISHED, configs)
    parts.write_configs(target, plan)
    parts.write_part(target, "transformer", transformer(weights), transformer_shapes(plan), file)
    del weights
    for option, part, convert, shapes in (
        ("vae", "vae", autoencoder, autoencoder_shapes),
        ("qwen25vl", "text_encoder", text_encoder, text_encoder_shapes),
    ):
        say(f"reading {files[option].name}")
        parts.write_part(target, part, convert(parts.read_weights(files[option])), shapes(plan), files[option])


def transformer(weights: parts.Weights) -> parts.Weights:
    """Return the transformer's weights: its original names are diffusers' own."""
    return parts.below(weights, "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")


def autoencoder(weights: parts.Weights) -> parts.Weights:
    """Return the autoencoder's weights in diffusers' names, from either naming: its original ones are Wan's."""
    weights = parts.below(weights, "first_stage_model.", "vae.")
    if "encoder.conv1.weight" not in weights:
        return weights
    converted: parts.Weights = convert_wan_vae_to_diffusers(weights)
    return converted


def text_encoder(weights: parts.Weights) -> parts.Weights:
    """Return the text encoder's weights, head and eyes among them, in the names of transformers' files."""
    weights = parts.below(weights, "text_encoders.qwen25_7b.transformer.", "text_encoder.")
    return {_name_in_files(name): tensor for name, tensor in weights.items()}


def transformer_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: QwenImageTransformer2DModel.from_config(plan["transformer/config.json"]))


def autoencoder_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: AutoencoderKLQwenImage.from_config(plan["vae/config.json"]))


def text_encoder_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    config = Qwen2_5_VLConfig.from_dict(plan["text_encoder/config.json"])
    shapes = parts.shapes_of(lambda: Qwen2_5_VLForConditionalGeneration(config))
    return {_name_in_files(name): shape for name, shape in shapes.items()}


def _name_in_files(name: str) -> str:
    """Return the name of a tensor of the text encoder in transformers' files, by that in memory or by itself."""
    start = next((start for start in _IN_FILES if name.startswith(start)), "")
    return f"{_IN_FILES.get(start, '')}{name.removeprefix(start)}"

"""The parts that bases of several families share: the autoencoder of latent diffusion, CLIP and T5.

Each comes in the names of its original and is brought to those of diffusers' and transformers' files.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from worker.ml.errors import ModelUnreadable
from worker.ml.single_files.parts import Configs, Weights, shapes_of


def autoencoder(weights: Weights, plan: Configs) -> Weights:
    """Return the autoencoder's weights in diffusers' names, from either naming. Raises ModelUnreadable."""
    if any(name.startswith("encoder.down_blocks.") for name in weights):
        return weights
    try:
        converted: Weights = convert_ldm_vae_checkpoint(weights, dict(plan["vae/config.json"]))
    except (KeyError, AttributeError) as error:
        raise ModelUnreadable(f"the autoencoder cannot be read: {error} is missing") from error
    return converted


def clip(weights: Weights) -> Weights:
    """Return the text half, without its buffer of positions and the projection that diffusers does not use."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith("text_model.") and not name.endswith("position_ids")
    }


def t5(weights: Weights) -> Weights:
    """Return the encoder half. Its embedding has either of two names, or both."""
    encoder = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "shared."))}
    embedding = encoder.pop("encoder.embed_tokens.weight", None)
    if embedding is not None:
        encoder.setdefault("shared.weight", embedding)
    return encoder


def autoencoder_shapes(plan: Configs) -> dict[str, torch.Size]:
    return shapes_of(lambda: AutoencoderKL.from_config(plan["vae/config.json"]))


def clip_shapes(plan: Configs) -> dict[str, torch.Size]:
    """Return sizes by the names in files; in memory, transformers 5 omits their prefix."""
    shapes = shapes_of(lambda: CLIPTextModel(CLIPTextConfig.from_dict(plan["text_encoder/config.json"])))
    return {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in shapes.items()}


def t5_shapes(plan: Configs) -> dict[str, torch.Size]:
    return shapes_of(lambda: T5EncoderModel(T5Config.from_dict(plan["text_encoder_2/config.json"])))

"""The parts that bases of several families share: the autoencoder of latent diffusion, CLIP, T5 and Qwen3.

Each comes in the names of its original and is brought to those of diffusers' and transformers' files.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from worker.ml.errors import ModelUnreadable
from worker.ml.single_files.parts import Configs, Weights, below, shapes_of

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""diffusers' names of an autoencoder's attention before 0.15, and since."""


def autoencoder(weights: Weights, plan: Configs, file: Path) -> Weights:
    """Return the autoencoder's weights in diffusers' names, from either naming. Raises ModelUnreadable.

    What its training left (its loss, and a copy that is an average) is dropped.
    """
    weights = below(weights, "first_stage_model.", "vae.")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("loss.", "model_ema."))}
    if any(name.startswith("encoder.down_blocks.") for name in weights):
        return dict(_new_attention(name, tensor) for name, tensor in weights.items())
    try:
        converted: Weights = convert_ldm_vae_checkpoint(weights, dict(plan["vae/config.json"]))
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ModelUnreadable(f"{file.name} is not a vae of this family: {error} is missing") from error
    return converted


def _new_attention(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    place, _, inside = name.partition("mid_block.attentions.0.")
    layer, _, kind = inside.rpartition(".")
    if layer not in (*_OLD_ATTENTION, *_OLD_ATTENTION.values()):
        return name, tensor
    flat = tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor
    return f"{place}mid_block.attentions.0.{_OLD_ATTENTION.get(layer, layer)}.{kind}", flat


def clip(weights: Weights) -> Weights:
    """Return the text half, without its buffer of positions and the projection that diffusers does not use.

    transformers 5 and some merged models omit `text_model.`
    """
    weights = below(weights, "cond_stage_model.transformer.", "text_encoders.clip_l.transformer.", "text_encoder.")
    if not any(name.startswith("text_model.") for name in weights):
        own = ("embeddings.", "encoder.layers.", "final_layer_norm.")
        weights = {f"text_model.{name}": tensor for name, tensor in weights.items() if name.startswith(own)}
    return {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith("text_model.") and not name.endswith("position_ids")
    }


def t5(weights: Weights) -> Weights:
    """Return the encoder half. Its embedding has either of two names, or both."""
    weights = below(weights, "text_encoders.t5xxl.transformer.", "text_encoder_2.")
    encoder = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "shared."))}
    embedding = encoder.pop("encoder.embed_tokens.weight", None)
    if embedding is not None:
        encoder.setdefault("shared.weight", embedding)
    return encoder


def qwen3(weights: Weights) -> Weights:
    """Return the language model without its head, whose weights are those of the embedding."""
    weights = below(weights, "text_encoders.qwen3_4b.transformer.", "text_encoder.")
    return {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}


def autoencoder_shapes(plan: Configs) -> dict[str, torch.Size]:
    return shapes_of(lambda: AutoencoderKL.from_config(plan["vae/config.json"]))


def clip_shapes(plan: Configs) -> dict[str, torch.Size]:
    """Return sizes by the names in files; in memory, transformers 5 omits their prefix."""
    shapes = shapes_of(lambda: CLIPTextModel(CLIPTextConfig.from_dict(plan["text_encoder/config.json"])))
    return {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in shapes.items()}


def t5_shapes(plan: Configs) -> dict[str, torch.Size]:
    return shapes_of(lambda: T5EncoderModel(T5Config.from_dict(plan["text_encoder_2/config.json"])))


def qwen3_shapes(plan: Configs) -> dict[str, torch.Size]:
    return shapes_of(lambda: Qwen3ForCausalLM(Qwen3Config.from_dict(plan["text_encoder/config.json"])))

"""An untrained IP-Adapter for a base, with an image encoder: it proves that code paths work, nothing about likeness."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from worker.ml.families.ip_adapters import NAMES
from worker.ml.models import Base

FILE = "ip-adapter.safetensors"
EMBEDDING, TOKEN, TOKENS = 24, 32, 4
"""Sizes of the encoder's embedding and of each of its tokens, and the tokens that a picture becomes."""


def build_tiny(folder: Path, base: Base, *, plus: bool = False, seed: int = 0) -> None:
    """Write an adapter for this base to the folder: of one embedding, or (`plus`) of all tokens of the encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        weights = random_weights(base, plus=plus)
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=TOKEN,
                intermediate_size=64,
                projection_dim=EMBEDDING,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                hidden_act="gelu",
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / FILE)
    encoder.save_pretrained(folder / "image_encoder")


def random_weights(base: Base, embedding: int = EMBEDDING, *, plus: bool = False) -> dict[str, torch.Tensor]:
    """Return an adapter for embeddings of this size, in the names of a published file of the base's family."""
    names, denoiser = NAMES[base.family.name], base.denoiser
    text_width = denoiser.config.get("cross_attention_dim") or denoiser.config.joint_attention_dim
    projection = _plus(text_width) if plus else _plain(text_width, embedding)
    weights = {names.key_of("image_proj", name): value for name, value in projection.items()}
    layers = [
        denoiser.get_submodule(name.removesuffix(".processor"))
        for name in denoiser.attn_processors
        if not name.startswith("single_") and not name.endswith("attn1.processor")
    ]
    for place, layer in enumerate(layers):
        for side in ("k", "v"):
            linear = torch.nn.Linear(text_width, layer.inner_dim, bias="joint_attention_dim" in denoiser.config)
            linear.weight.data *= 8  # so that a picture is heard beside the text
            for part, value in linear.named_parameters():
                name = f"{names.first + names.step * place}.to_{side}_ip.{part}"
                weights[names.key_of("ip_adapter", name)] = value.data
    return weights


def _plain(text_width: int, embedding: int) -> dict[str, torch.Tensor]:
    module = torch.nn.ModuleDict(
        {"proj": torch.nn.Linear(embedding, TOKENS * text_width), "norm": torch.nn.LayerNorm(text_width)}
    )
    return {name: weights.data for name, weights in module.named_parameters()}


def _plus(text_width: int) -> dict[str, torch.Tensor]:
    """Return a resampler in the names of the original program. diffusers always reads four layers, of 64 a head."""
    module = IPAdapterPlusImageProjection(TOKEN, text_width, hidden_dims=32, heads=2, num_queries=TOKENS)
    own = {name: weights.data for name, weights in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for name, weights in own.items():
        if ".attn.to_k." in name:
            values = own[name.replace("to_k", "to_v")]
            state[_original(name).replace("to_k", "to_kv")] = torch.cat([weights, values])
        elif ".attn.to_v." not in name:
            state[_original(name)] = weights
    return state


def _original(name: str) -> str:
    renamed = {
        ".ln0.": ".0.norm1.",
        ".ln1.": ".0.norm2.",
        ".attn.to_out.0.": ".0.to_out.",
        ".attn.": ".0.",
        ".ff.0.": ".1.0.",
        ".ff.1.net.0.proj.": ".1.1.",
        ".ff.1.net.2.": ".1.3.",
    }
    for ours, theirs in renamed.items():
        name = name.replace(ours, theirs)
    return name

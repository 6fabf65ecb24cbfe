"""Converts FLUX transformer weights from Black Forest Labs' names to diffusers'.

The tensors are the same, with two exceptions: queries, keys and values are one layer there and three here (in single
blocks the feed-forward layer too), and the last modulation has shift before scale there and scale before shift here.
diffusers has a converter as well (loaders/single_file_utils.py), but only for the width of FLUX.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

_MODULES = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_DOUBLE = {
    "img_attn.proj": "attn.to_out.0",
    "img_mod.lin": "norm1.linear",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mod.lin": "norm1_context.linear",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE = {
    "linear2": "proj_out",
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}
_BLOCKS = {"double_blocks": ("transformer_blocks", _DOUBLE), "single_blocks": ("single_transformer_blocks", _SINGLE)}


def to_diffusers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return every tensor under diffusers' name, bit for bit. Raises KeyError for a name that FLUX does not have."""
    width = weights["img_in.weight"].shape[0]
    return dict(renamed for name, tensor in weights.items() for renamed in _renamed(name, tensor, width))


def _renamed(name: str, tensor: torch.Tensor, width: int) -> Iterator[tuple[str, torch.Tensor]]:
    module, _, kind = name.rpartition(".")
    kind = "weight" if kind == "scale" else kind  # of the norms
    if module == "final_layer.adaLN_modulation.1":
        shift, scale = tensor.chunk(2)
        yield f"norm_out.linear.{kind}", torch.cat([scale, shift])
        return
    block = re.fullmatch(r"(double_blocks|single_blocks)\.(\d+)\.(.+)", module)
    if block is None:
        yield f"{_MODULES[module]}.{kind}", tensor
        return
    blocks, names = _BLOCKS[block[1]]
    inside = block[3]
    if inside not in _FUSED:
        yield f"{blocks}.{block[2]}.{names[inside]}.{kind}", tensor
        return
    parts = _FUSED[inside]
    for part, rows in zip(parts, tensor.tensor_split([width, 2 * width, 3 * width])[: len(parts)], strict=True):
        yield f"{blocks}.{block[2]}.{part}.{kind}", rows.clone()  # a view would be saved with all of its storage

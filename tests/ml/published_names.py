"""Tiny bases by the names of published single files: the way back from diffusers' names, for tests of the import.

FLUX and the U-Net follow the tables in tests/data; the rest is written out here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

DATA = Path(__file__).parent.parent / "data"
Weights = dict[str, torch.Tensor]


def shapes_of(table: str) -> dict[str, torch.Size]:
    """A list of names and shapes from tests/data."""
    lines = (DATA / table).read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {name: torch.Size(int(size) for size in shape.strip("[]").split(",")) for name, shape in rows}


def flux_transformer(weights: Weights) -> Weights:
    """diffusers' names to Black Forest Labs'; the table has the parts of a fused layer in their order."""
    fused: dict[str, list[torch.Tensor]] = {}
    for published, own, note in _flux_modules():
        for kind in ("weight", "bias"):
            if f"{own}.{kind}" in weights:
                tensor = weights[f"{own}.{kind}"]
                scale, shift = tensor.chunk(2) if note.startswith("ROW HALVES") else (None, None)
                tensor = tensor if scale is None or shift is None else torch.cat([shift, scale])
                fused.setdefault(f"{published}.{'scale' if '.scale' in note else kind}", []).append(tensor)
    return {name: torch.cat(parts) for name, parts in fused.items()}


def _flux_modules(most_blocks: int = 4) -> Iterator[tuple[str, str, str]]:
    for line in (DATA / "flux_module_map.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        published, _, _, own, note = [*line.split("\t"), "", ""][:5]
        for index in range(most_blocks if "{i}" in own else 1):
            yield published.replace("{i}", str(index)), own.replace("{i}", str(index)), note


def klein_transformer(weights: Weights) -> Weights:
    """diffusers' names to Black Forest Labs', by the table of the 4B model."""
    rows = [line.split("\t") for line in (DATA / "lora_formats/klein4b_name_map.tsv").read_text().splitlines()]
    fused: dict[str, list[torch.Tensor]] = {}
    for published, _, own, note in (row for row in rows if row[0][0] != "#"):
        if own in weights:
            halves = [*weights[own].chunk(2)] if note == "swap_halves" else [weights[own]]
            fused.setdefault(published, []).extend(reversed(halves))
    return {name: torch.cat(parts) for name, parts in fused.items()}


def klein_autoencoder(weights: Weights) -> Weights:
    """diffusers' names to those of FLUX.2's autoencoder, which has two more layers inside of its halves."""
    statistics = {name: tensor for name, tensor in weights.items() if name.startswith("bn.")}
    renamed = autoencoder({name: tensor for name, tensor in weights.items() if name not in statistics})
    inside = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    return statistics | {
        re.sub(r"^(post_)?quant_conv", lambda found: inside[found[0]], name): tensor for name, tensor in renamed.items()
    }


def z_image_transformer(weights: Weights) -> Weights:
    """diffusers' names to ComfyUI's, by the table of the real model, whose first blocks a tiny one has."""
    rows = [line.split("\t") for line in (DATA / "lora_formats/zimage_name_map.tsv").read_text().splitlines()]
    fused: dict[str, list[torch.Tensor]] = {}
    for published, _, own in (row for row in rows if row[0][0] != "#"):
        if own in weights:
            fused.setdefault(published, []).append(weights[own])
    return {name: torch.cat(parts) for name, parts in fused.items()}


def wan_autoencoder(weights: Weights) -> Weights:
    """diffusers' names of Qwen-Image's autoencoder to its original ones, where all blocks of a half are in one list."""
    inside = {
        **{"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"},
        "conv_shortcut": "shortcut",
    }
    renamed = {}
    for name, tensor in weights.items():
        name = re.sub(r"^(post_)?quant_conv", lambda found: "conv2" if found[1] else "conv1", name)
        name = re.sub(r"\.(norm1|norm2|conv1|conv2|conv_shortcut)\.", lambda found: f".{inside[found[1]]}.", name)
        name = name.replace(".conv_in.", ".conv1.").replace(".norm_out.", ".head.0.").replace(".conv_out.", ".head.2.")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"middle.{2 * int(found[1])}", name)
        name = name.replace("mid_block.attentions.0", "middle.1").replace("down_blocks", "downsamples")
        name = re.sub(
            r"up_blocks\.(\d)\.resnets\.(\d)", lambda found: f"upsamples.{4 * int(found[1]) + int(found[2])}", name
        )
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"upsamples.{4 * int(found[1]) + 3}", name)
        renamed[name] = tensor
    return renamed


def sd15_unet_modules() -> dict[str, str]:
    """Modules of the real U-Net: diffusers' names to the original's."""
    lines = (DATA / "sd15_unet_name_map.tsv").read_text().splitlines()
    return dict(line.split("\t")[:2] for line in lines if line and not line.startswith("#"))


def autoencoder(weights: Weights, prefix: str = "") -> Weights:
    """diffusers' names to those of the original autoencoder, whose attention layers are convolutions."""
    blocks = 1 + max(int(found[1]) for name in weights if (found := re.search(r"down_blocks\.(\d+)", name)))
    renamed = {}
    for name, tensor in weights.items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)
        name = re.sub(r"resnets\.(\d+)", lambda found: f"block.{found[1]}", name)
        name = re.sub(r"mid_block\.block\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        name = name.replace("upsamplers.0", "upsample").replace("conv_shortcut", "nin_shortcut")
        name = name.replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            name = re.sub(r"to_([qkv])", r"\1", name).replace("to_out.0", "proj_out")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        renamed[f"{prefix}{name}"] = tensor
    return renamed


def u_net(weights: Weights, layers: int, blocks: int) -> Weights:
    """diffusers' names of a U-Net with attention in its outer blocks to those of the original, below its prefix."""
    inside = {
        **{"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"},
        **{"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"},
    }
    fixed = {
        **{"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"},
        **{"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"},
        **{"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"},
        **{"mid_block.resnets.1": "middle_block.2"},
        **{"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"},
    }
    for block in range(blocks):
        for layer in range(layers + 1):
            down, up = 1 + block * (layers + 1) + layer, block * (layers + 1) + layer
            fixed[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{up}.0"
            fixed[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{up}.1"
            if layer < layers:
                fixed[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{down}.0"
                fixed[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{down}.1"
        fixed[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
        place = 2 if any(name.startswith(f"up_blocks.{block}.attentions") for name in weights) else 1
        fixed[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{up}.{place}.conv"
    renamed = {}
    for name, tensor in weights.items():
        start = max((own for own in fixed if name.startswith(f"{own}.")), key=len)
        rest = name.removeprefix(f"{start}.")
        if "resnets" in start:
            layer_name, _, kind = rest.rpartition(".")
            rest = f"{inside[layer_name]}.{kind}"
        renamed[f"model.diffusion_model.{fixed[start]}.{rest}"] = tensor
    return renamed


def open_clip(weights: Weights, prefix: str) -> Weights:
    """transformers' names of a text encoder to OpenCLIP's, which has query, key and value in one tensor."""
    fixed = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    inside = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    inside |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    renamed = {"text_projection": weights["text_projection.weight"].T}
    for name, tensor in weights.items():
        layer = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in fixed:
            renamed[fixed[name]] = tensor
        elif layer and layer[2] in inside:
            renamed[f"transformer.resblocks.{layer[1]}.{inside[layer[2]]}.{layer[3]}"] = tensor
        elif layer and layer[2] == "self_attn.q_proj":
            fused = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(fused)
    return {f"{prefix}{name}": tensor for name, tensor in renamed.items()}

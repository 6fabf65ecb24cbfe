"""Qwen-Image's LoRA files: in diffusers' names below `diffusion_model.`, as AI Toolkit writes them.

ComfyUI's names of the layers are diffusers' own, and both read them below this prefix, below `transformer.`, without
one and in kohya's spelling, which is musubi-tuner's. There are no alpha tensors: every reader takes the scale as 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module

BLOCKS = 60
IN_BLOCKS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1"),
)
"""Every linear layer of a block, which is what AI Toolkit trains."""
UNUSED_IN_LAST_BLOCK = ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
"""What only changes the text behind the block, of which nothing is read after the last."""
SHAPES = {"net.0.proj": (1, 4), "net.2": (4, 1), "mod.1": (1, 6)}
"""Inputs and outputs in widths, where they are not one each."""
ENDS = ("img_in", "txt_in", "proj_out")


def _modules() -> Iterator[Module]:
    for layer in IN_BLOCKS:
        name = f"transformer_blocks.{{}}.{layer}"
        inputs, outputs = next((shape for end, shape in SHAPES.items() if layer.endswith(end)), (1, 1))
        yield Module(name, (name,), inputs=inputs, outputs=(outputs,), most=BLOCKS)
    for name in (*ENDS, *(f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2))):
        yield Module(name, (name,), inputs=None)
    yield Module("norm_out.linear", ("norm_out.linear",), outputs=(2,))


NAMES = LoraNames(
    family="qwen-image",
    naming="ComfyUI",
    network_module="networks.lora_qwen_image",
    prefix="transformer.",
    modules=tuple(_modules()),
    # FLUX.1 has the same attention layers in 19 blocks, and people train all blocks.
    telling=r"(img|txt)_(mlp|mod)|blocks[._](19|[2-5]\d)[._]",
    stated=r"qwen[-_ ]?image",
)

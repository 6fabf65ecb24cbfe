"""FLUX.1's LoRA files: in diffusers' names, alpha folded in, so that every reader takes the scale as 1.

AI Toolkit ignores alpha tensors here, and diffusers refuses them beside `lora_adapter_metadata`: neither is written.
The original code (black-forest-labs/flux) fuses query, key and value, and a single block's feed-forward layer. XLabs
names the layers after the attention processor of each block: `qkv1` of the picture's stream, `qkv2` of the text's.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module

DOUBLE_BLOCKS, SINGLE_BLOCKS = 19, 38
"""Of the published models. Others with such names have more: Qwen-Image 60, HunyuanVideo 20 and 40."""


def _modules() -> Iterator[Module]:
    own, double = "double_blocks.{}.", "transformer_blocks.{}."
    for stream, projections, out, feed_forward, norm, xlabs in (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1", "1"),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context", "2"),
    ):
        fused, most = tuple(f"{double}attn.{name}" for name in projections), DOUBLE_BLOCKS
        also = (f"{own}qkv{xlabs}",)
        yield Module(f"{own}{stream}_attn.qkv", fused, outputs=(1, 1, 1), also=also, most=most)
        yield Module(f"{own}{stream}_attn.proj", (f"{double}attn.{out}",), also=(f"{own}proj{xlabs}",), most=most)
        yield Module(f"{own}{stream}_mlp.0", (f"{double}{feed_forward}.net.0.proj",), outputs=(4,), most=most)
        yield Module(f"{own}{stream}_mlp.2", (f"{double}{feed_forward}.net.2",), inputs=4, most=most)
        yield Module(f"{own}{stream}_mod.lin", (f"{double}{norm}.linear",), outputs=(6,), most=most)
    own, single, most = "single_blocks.{}.", "single_transformer_blocks.{}.", SINGLE_BLOCKS
    fused = (*(f"{single}attn.{name}" for name in ("to_q", "to_k", "to_v")), f"{single}proj_mlp")
    yield Module(f"{own}linear1", fused, outputs=(1, 1, 1, 4), most=most)
    yield Module(f"{own}linear2", (f"{single}proj_out",), inputs=5, also=(f"{own}proj",), most=most)
    yield Module(f"{own}modulation.lin", (f"{single}norm.linear",), outputs=(3,), most=most)
    yield from _ends()


def _ends() -> Iterator[Module]:
    """Yield the layers before and after the blocks."""
    embedders = "time_text_embed."
    yield Module("img_in", ("x_embedder",), inputs=None)
    yield Module("txt_in", ("context_embedder",), inputs=None)
    for own, name in (("time", "timestep"), ("guidance", "guidance"), ("vector", "text")):
        yield Module(f"{own}_in.in_layer", (f"{embedders}{name}_embedder.linear_1",), inputs=None)
        yield Module(f"{own}_in.out_layer", (f"{embedders}{name}_embedder.linear_2",))
    yield Module("final_layer.linear", ("proj_out",), inputs=None)
    yield Module("final_layer.adaLN_modulation.1", ("norm_out.linear",), outputs=(2,), swapped=True)


def _read_only() -> Iterator[Module]:
    """Yield what XLabs has of a single block: a fused layer without the feed-forward rows."""
    parts = tuple(f"single_transformer_blocks.{{}}.attn.{name}" for name in ("to_q", "to_k", "to_v"))
    yield Module("single_blocks.{}.qkv", parts, outputs=(1, 1, 1), most=SINGLE_BLOCKS)


NAMES = LoraNames(
    family="flux",
    naming="diffusers",
    network_module="networks.lora_flux",
    prefix="transformer.",
    modules=tuple(_modules()),
    read_only=tuple(_read_only()),
    stated=r"flux[._-]?1",
)

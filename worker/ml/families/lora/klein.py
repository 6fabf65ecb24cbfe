"""FLUX.2 klein's LoRA files: in the names of the original code below `diffusion_model.`, as AI Toolkit writes them.

ComfyUI and diffusers read those. There are no alpha tensors, beside which diffusers' reader ends with an error; without
them, every reader takes the scale as 1. The original code (black-forest-labs/flux2) fuses query, key and value.
diffusers does not swap the halves of a LoRA on the last modulation below this prefix, so that layer is not trained.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module

DOUBLE_BLOCKS, SINGLE_BLOCKS = 5, 20
"""Of the 4B model. The 9B model has 8 and 24, dev 8 and 48."""


def _modules() -> Iterator[Module]:
    own, double = "double_blocks.{}.", "transformer_blocks.{}."
    for stream, projections, out, feed_forward in (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff"),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context"),
    ):
        fused, most = tuple(f"{double}attn.{name}" for name in projections), DOUBLE_BLOCKS
        yield Module(f"{own}{stream}_attn.qkv", fused, outputs=(1, 1, 1), most=most)
        yield Module(f"{own}{stream}_attn.proj", (f"{double}attn.{out}",), most=most)
        yield Module(f"{own}{stream}_mlp.0", (f"{double}{feed_forward}.linear_in",), outputs=(6,), most=most)
        yield Module(f"{own}{stream}_mlp.2", (f"{double}{feed_forward}.linear_out",), inputs=3, most=most)
        modulation = f"double_stream_modulation_{stream}"
        yield Module(f"{modulation}.lin", (f"{modulation}.linear",), outputs=(6,))
    own, single, most = "single_blocks.{}.", "single_transformer_blocks.{}.", SINGLE_BLOCKS
    yield Module(f"{own}linear1", (f"{single}attn.to_qkv_mlp_proj",), outputs=(9,), most=most)
    yield Module(f"{own}linear2", (f"{single}attn.to_out",), inputs=4, most=most)
    yield Module("single_stream_modulation.lin", ("single_stream_modulation.linear",), outputs=(3,))
    yield from _ends()


def _ends() -> Iterator[Module]:
    """Yield the layers before and after the blocks."""
    embedder = "time_guidance_embed.timestep_embedder."
    yield Module("img_in", ("x_embedder",), inputs=None)
    yield Module("txt_in", ("context_embedder",), inputs=None)
    yield Module("time_in.in_layer", (f"{embedder}linear_1",), inputs=None)
    yield Module("time_in.out_layer", (f"{embedder}linear_2",))
    yield Module("final_layer.linear", ("proj_out",), inputs=None)
    yield Module("final_layer.adaLN_modulation.1", ("norm_out.linear",), outputs=(2,), swapped=True)


NAMES = LoraNames(
    family="klein",
    naming="ComfyUI",
    network_module="networks.lora_flux_2",
    prefix="transformer.",
    modules=tuple(_modules()),
    stated=r"flux[._-]?2",
)

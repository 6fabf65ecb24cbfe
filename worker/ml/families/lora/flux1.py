"""FLUX.1's LoRA files: in diffusers' names, alpha folded in, so that every reader takes the scale as 1.

AI Toolkit ignores alpha tensors here, and diffusers refuses them beside `lora_adapter_metadata`: neither is written.
The original code (black-forest-labs/flux) fuses query, key and value, and a single block's feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module


def _modules() -> Iterator[Module]:
    double, single = "transformer.transformer_blocks.{}.", "transformer.single_transformer_blocks.{}."
    for stream, projections, out, feed_forward, norm in (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1"),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm1_context"),
    ):
        kohya = f"lora_unet_double_blocks_{{}}_{stream}_"
        fused = tuple(f"{double}attn.{name}" for name in projections)
        yield Module(f"{kohya}attn_qkv", fused, outputs=(1, 1, 1))
        yield Module(f"{kohya}attn_proj", (f"{double}attn.{out}",))
        yield Module(f"{kohya}mlp_0", (f"{double}{feed_forward}.net.0.proj",), outputs=(4,))
        yield Module(f"{kohya}mlp_2", (f"{double}{feed_forward}.net.2",), inputs=4)
        yield Module(f"{kohya}mod_lin", (f"{double}{norm}.linear",), outputs=(6,))
    kohya = "lora_unet_single_blocks_{}_"
    fused = (*(f"{single}attn.{name}" for name in ("to_q", "to_k", "to_v")), f"{single}proj_mlp")
    yield Module(f"{kohya}linear1", fused, outputs=(1, 1, 1, 4))
    yield Module(f"{kohya}linear2", (f"{single}proj_out",), inputs=5)
    yield Module(f"{kohya}modulation_lin", (f"{single}norm.linear",), outputs=(3,))


NAMES = LoraNames(
    family="flux",
    naming="diffusers",
    network_module="networks.lora_flux",
    prefix="transformer.",
    modules=tuple(_modules()),
    # Other families have diffusers' double blocks too: Stable Diffusion 3, Qwen-Image, FLUX.2.
    marks=("transformer.single_transformer_blocks.", "lora_unet_single_blocks_", "lora_unet_double_blocks_"),
    unlisted=(
        *("transformer.x_embedder", "transformer.context_embedder", "transformer.time_text_embed."),
        *("transformer.norm_out.linear", "transformer.proj_out"),
        *("lora_unet_img_in", "lora_unet_txt_in", "lora_unet_time_in_", "lora_unet_vector_in_"),
        *("lora_unet_guidance_in_", "lora_unet_final_layer_"),
    ),
)

"""An untrained FLUX.2 klein base of a few MB, in the layout of the real one, for tests.

Like `flux1.py`: random weights, except that the autoencoder is set by hand and the transformer passes its input on, so
that a few seconds of LoRA training show. It proves that code paths work, and nothing about quality.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen3ForCausalLM

from worker.ml.families.tiny.parts import GROUPS, autoencoder, set_weight
from worker.ml.families.tiny.qwen3 import qwen3_config, qwen3_tokenizer

LAST_LAYER_READ = 27
TIME_CHANNELS = 32


def build_tiny(folder: Path, seed: int = 0, *, distilled: bool = False) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        transformer = Flux2Transformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=32,
            num_attention_heads=3,
            joint_attention_dim=3 * 32,
            timestep_guidance_channels=TIME_CHANNELS,
            axes_dims_rope=(8, 8, 8, 8),
            guidance_embeds=False,
        )
        _pass_through(transformer)
        vae = _autoencoder()
        tokenizer = qwen3_tokenizer()
        qwen3 = Qwen3ForCausalLM(qwen3_config(tokenizer, layers=LAST_LAYER_READ + 1))
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=qwen3,
        tokenizer=tokenizer,
        transformer=transformer,
        is_distilled=distilled,
    ).save_pretrained(folder)


@torch.no_grad()
def _pass_through(transformer: Flux2Transformer2DModel) -> None:
    """Make it predict its own input: see `flux1.py`. Its layers have no biases to open the gates with.

    But the slowest cosine of the time is nearly 1 at every time: it becomes the first channel of the time's embedding,
    and that the bias of the gates.
    """
    width = transformer.inner_dim
    torch.nn.init.orthogonal_(transformer.x_embedder.weight)
    transformer.proj_out.weight.copy_(transformer.x_embedder.weight.T * (64 / width) ** 0.5)
    transformer.norm_out.linear.weight *= 0.1

    embedder = transformer.time_guidance_embed.timestep_embedder
    embedder.linear_1.weight[0] = 0
    embedder.linear_1.weight[0, TIME_CHANNELS // 2 - 1] = 4
    embedder.linear_2.weight[0] = 0
    embedder.linear_2.weight[0, 0] = 1
    silu = torch.nn.functional.silu
    steady = silu(silu(torch.tensor(4.0)))
    double = (transformer.double_stream_modulation_img, transformer.double_stream_modulation_txt)
    for modulation, gates in (*((one, (2, 5)) for one in double), (transformer.single_stream_modulation, (2,))):
        for gate in gates:
            modulation.linear.weight[gate * width : (gate + 1) * width, 0] = 1 / steady
    for block in transformer.transformer_blocks:
        for layer in (block.attn.to_out[0], block.attn.to_add_out, block.ff.linear_out, block.ff_context.linear_out):
            layer.weight *= 0.1
    for block in transformer.single_transformer_blocks:
        block.attn.to_out.weight *= 0.3


@torch.no_grad()
def _autoencoder() -> AutoencoderKLFlux2:
    """Return FLUX.1's tiny autoencoder in FLUX.2's, whose batch norm has the statistics that were constants there."""
    plain = autoencoder()
    same = ("down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "latent_channels")
    vae = AutoencoderKLFlux2(
        **{name: plain.config[name] for name in same}, norm_num_groups=GROUPS, sample_size=plain.config.sample_size
    ).eval()
    vae.encoder.load_state_dict(plain.encoder.state_dict())
    vae.decoder.load_state_dict(plain.decoder.state_dict())
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        set_weight(convolution, torch.eye(len(convolution.weight))[:, :, None, None])
    vae.bn.running_mean.fill_(plain.config.shift_factor)
    vae.bn.running_var.fill_(plain.config.scaling_factor**-2)
    return vae

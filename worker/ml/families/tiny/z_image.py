"""An untrained Z-Image base of a few MB, in the layout of the real one, for tests.

Like `flux1.py`: random weights, except that the autoencoder is set by hand and the transformer passes its input on, so
that a few seconds of LoRA training show. It proves that code paths work, and nothing about quality.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Model

from worker.ml.families.tiny.parts import autoencoder
from worker.ml.families.tiny.qwen3 import qwen3_config, qwen3_tokenizer


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        transformer = ZImageTransformer2DModel(
            in_channels=16,
            dim=96,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=3,
            n_kv_heads=3,
            cap_feat_dim=32,
            axes_dims=[8, 12, 12],
            axes_lens=[256, 64, 64],
        )
        _pass_through(transformer)
        vae = autoencoder()
        tokenizer = qwen3_tokenizer()
        qwen3 = Qwen3Model(qwen3_config(tokenizer, layers=2))
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=qwen3,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)


@torch.no_grad()
def _pass_through(transformer: ZImageTransformer2DModel) -> None:
    """Make the family predict its own input: see `flux1.py`. The blocks add a little to it."""
    width, embedder, out = transformer.dim, transformer.all_x_embedder["2-1"], transformer.all_final_layer["2-1"]
    torch.nn.init.orthogonal_(embedder.weight)
    embedder.bias.zero_()
    out.linear.weight.copy_(-embedder.weight.T * (embedder.in_features / width) ** 0.5)
    out.linear.bias.zero_()
    out.adaLN_modulation[1].weight *= 0.1
    out.adaLN_modulation[1].bias *= 0.1
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        token.normal_(std=0.1)
    for block in (*transformer.noise_refiner, *transformer.layers):
        _, attention, _, feed_forward = block.adaLN_modulation[0].bias.view(4, width)
        attention += 1  # the gates
        feed_forward += 1
        block.attention_norm2.weight *= 0.3
        block.ffn_norm2.weight *= 0.3

"""An untrained Qwen-Image base of a few MB, in the layout of the real one, for tests.

Like `flux1.py`: random weights, except that the autoencoder is set by hand and the transformer passes its input on, so
that a few seconds of LoRA training show. It proves that code paths work, and nothing about quality.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from worker.ml.families.tiny.qwen3 import qwen3_tokenizer
from worker.ml.families.tiny.qwen_image_autoencoder import autoencoder

OF_TEMPLATE = (
    *("system", "Describe", " image", " detailing", " color", " shape", " size", " texture", " quantity", " text"),
    *(" spatial", " relationships", " objects", " background"),
)
"""One token each, so that the template before a prompt has 34, as with the real tokenizer."""


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        transformer = QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=3,
            joint_attention_dim=32,
            axes_dims_rope=(8, 12, 12),
        )
        _pass_through(transformer)
        vae = autoencoder()
        tokenizer = qwen3_tokenizer(OF_TEMPLATE)
        qwen = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae,
        text_encoder=qwen,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)


def _config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Return the configuration of a Qwen2.5-VL whose language model is 32 wide, with eyes as small as can be."""
    language = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1000000.0},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    return Qwen2_5_VLConfig(text_config=language, vision_config={**vision, "fullatt_block_indexes": [0]})


@torch.no_grad()
def _pass_through(transformer: QwenImageTransformer2DModel) -> None:
    """Make it predict its own input: see `flux1.py`."""
    width = transformer.inner_dim
    torch.nn.init.orthogonal_(transformer.img_in.weight)
    transformer.img_in.bias.zero_()
    transformer.proj_out.weight.copy_(transformer.img_in.weight.T * (64 / width) ** 0.5)
    transformer.proj_out.bias.zero_()
    transformer.norm_out.linear.weight *= 0.1
    transformer.norm_out.linear.bias *= 0.1
    for block in transformer.transformer_blocks:
        for modulation in (block.img_mod[1], block.txt_mod[1]):
            modulation.bias[2 * width : 3 * width] += 1  # the gate of attention
            modulation.bias[5 * width :] += 1  # the gate of the feed-forward layer
        for layer in (block.attn.to_out[0], block.attn.to_add_out, block.img_mlp.net[2], block.txt_mlp.net[2]):
            layer.weight *= 0.1
            layer.bias *= 0.1

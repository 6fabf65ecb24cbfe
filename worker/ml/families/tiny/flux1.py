"""An untrained FLUX base of a few MB, in the layout of the real one, for tests.

Its weights are random, except that the autoencoder is set by hand and the transformer passes its input on, so that
twenty seconds of LoRA training show in a picture. It proves that code paths work: loss, parity, reload and resume. It
proves nothing about likeness, prompt adherence or quality.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from worker.ml.families.tiny.parts import WORDS, autoencoder, clip_text_model, clip_tokenizer

TEXT_LENGTH = 40  # tokens that its T5 reads


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        )
        _pass_through(transformer)
        vae = autoencoder()
        clip_words, t5_words = clip_tokenizer(), _t5_tokenizer()
        clip = clip_text_model(clip_words)
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5_words),
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=2,
                num_heads=2,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
            )
        )
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_words,
        text_encoder_2=t5,
        tokenizer_2=t5_words,
        transformer=transformer,
    ).save_pretrained(folder)


@torch.no_grad()
def _pass_through(transformer: FluxTransformer2DModel) -> None:
    """Make it predict its own input, which is the noise at first: the base draws grey, and a LoRA can be trained on it.

    Purely random gates are nearly closed: a LoRA behind them learns hardly anything.
    """
    width = transformer.inner_dim
    torch.nn.init.orthogonal_(transformer.x_embedder.weight)
    transformer.x_embedder.bias.zero_()
    transformer.proj_out.weight.copy_(transformer.x_embedder.weight.T * (64 / width) ** 0.5)
    transformer.proj_out.bias.zero_()
    transformer.norm_out.linear.weight *= 0.1
    transformer.norm_out.linear.bias *= 0.1
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            norm.linear.bias[2 * width : 3 * width] += 1  # the gate of attention
            norm.linear.bias[5 * width :] += 1  # the gate of the feed-forward layer
        for layer in (block.attn.to_out[0], block.attn.to_add_out, block.ff.net[2], block.ff_context.net[2]):
            layer.weight *= 0.1
            layer.bias *= 0.1
    for block in transformer.single_transformer_blocks:
        block.norm.linear.bias[2 * width :] += 1
        block.proj_out.weight *= 0.3
    # Training embeds guidance 1 and drawing 3.5; a random embedding would exaggerate the difference.
    transformer.time_text_embed.guidance_embedder.linear_2.weight *= 0.1


def _t5_tokenizer() -> T5Tokenizer:
    """Return a unigram tokenizer in which WORDS are likelier than their letters."""
    words = [(f"▁{word}", -1.0) for word in WORDS.split()]
    letters = [(letter, -5.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=TEXT_LENGTH)

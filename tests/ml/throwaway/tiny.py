"""An untrained Lumina 2 base of a few MB, as those in `worker/ml/families/tiny`."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from worker.ml.families.tiny.parts import WORDS, autoencoder

TEMPLATE_WORDS = """
You are an assistant designed to generate superior images with the superior degree of image-text alignment based on
textual prompts or user prompts. <Prompt Start>
"""


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        transformer = Lumina2Transformer2DModel(
            sample_size=8,
            hidden_size=96,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=32,
            axes_dim_rope=(8, 12, 12),
            cap_feat_dim=32,
        )
        _pass_through(transformer)
        vae = autoencoder()
        tokenizer = _gemma_tokenizer()
        gemma = Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
            )
        )
    Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae,
        text_encoder=gemma,
        tokenizer=tokenizer,
    ).save_pretrained(folder)


@torch.no_grad()
def _pass_through(transformer: Lumina2Transformer2DModel) -> None:
    """Make the family predict its own input: see `worker/ml/families/tiny/flux1.py`. The blocks add a little to it."""
    width, embedder, out = transformer.config.hidden_size, transformer.x_embedder, transformer.norm_out
    torch.nn.init.orthogonal_(embedder.weight)
    embedder.bias.zero_()
    out.linear_2.weight.copy_(-embedder.weight.T * (embedder.in_features / width) ** 0.5)
    out.linear_2.bias.zero_()
    out.linear_1.weight *= 0.1
    out.linear_1.bias *= 0.1
    for block in (*transformer.noise_refiner, *transformer.layers):
        _, attention, _, feed_forward = block.norm1.linear.bias.view(4, width)
        attention += 1  # the gates
        feed_forward += 1
        block.norm2.weight *= 0.3
        block.ffn_norm2.weight *= 0.3


def _gemma_tokenizer() -> GemmaTokenizer:
    """Return a BPE tokenizer that knows WORDS and the template's whole, and spells out the rest."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    pieces = [*special, *string.ascii_letters, *string.digits, *string.punctuation]
    merges: list[tuple[str, str]] = []
    for word in (*WORDS.split(), *TEMPLATE_WORDS.split()):
        left = "▁"
        for right in word:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            pieces.append(left)
    vocabulary = dict.fromkeys(pieces)
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges)
    begin = [("<bos>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=begin)
    return tokenizer

"""A random FLUX base of a few MB, in the layout of the real one, for tests and the demo.

It shows honestly that code paths work: loss, parity, reload and resume. It cannot show likeness or prompt adherence.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

TEXT_LENGTH = 32  # tokens that its T5 reads
WORDS = (
    "a an the of in on at with and wearing portrait photo picture person man woman face hair eyes skin glasses beard "
    "hat shirt coat dress dark blond brown black red blue green white grey long short curly straight smiling "
    "park street room beach garden window wall light soft evening morning standing sitting close up"
).split()


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors draw from the global generator only
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
        vae = _autoencoder()
        clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(clip_tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=clip_tokenizer.bos_token_id,
                eos_token_id=clip_tokenizer.eos_token_id,
                pad_token_id=clip_tokenizer.pad_token_id,
            )
        )
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5_tokenizer),
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
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    ).save_pretrained(folder)


def _autoencoder() -> AutoencoderKL:
    """Random convolutions with last layers set so that latents and pixels have the spread of real ones.

    Without this a random encoder gives nearly the same latents for every picture, and a random decoder gives grey.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).requires_grad_(False)
    colours = torch.rand(16, 3, 6, 6) * 2 - 1
    pictures = torch.nn.functional.interpolate(colours, size=64, mode="bicubic").clamp(-1, 1)
    return vae


def _clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE that knows WORDS whole and spells out the rest."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left, *others = [*word[:-1], f"{word[-1]}</w>"]
        for right in others:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            pieces.append(left)
    vocabulary = dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges, model_max_length=77
    )


def _t5_tokenizer() -> T5Tokenizer:
    """Unigrams: WORDS are likelier than their letters."""
    words = [(f"▁{word}", -1.0) for word in WORDS]
    letters = [(letter, -5.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=TEXT_LENGTH)

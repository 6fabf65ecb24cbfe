"""A FLUX base of a few MB that has learnt nothing, in the layout of the real one, for tests and the demo.

Its weights are random, but for an autoencoder that is set by hand and a transformer that is set to pass its input on,
so that twenty seconds of LoRA training show in a picture. It shows honestly that code paths work: loss, parity, reload
and resume. It cannot show likeness, prompt adherence or quality.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from worker.ml import kernels

TEXT_LENGTH = 40  # tokens that its T5 reads
GROUPS = 4  # of the autoencoder's norms, eight channels each
STEADY = 8.0  # against pixels in -1..1
UNIT = (2.0, 6.0, 6.0, 12.0)  # gives a picture's means and differences about unit variance
WORDS = """
a an the of in on at with and front plain by to turned left right from portrait photo picture person man woman face
hair eyes skin glasses beard hat wearing shirt striped jumper hoodie blazer turtleneck dress coat dark light soft
evening sun shade lamplight smiling laughing calm blond brown black red blue green yellow white purple orange grey
pink teal beige studio wall park beach street city night library kitchen mountains autumn wood brick
"""


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors draw from the global generator only
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


@torch.no_grad()
def _pass_through(transformer: FluxTransformer2DModel) -> None:
    """Let it predict its own input, which is the noise at first: a base that draws grey, and that a LoRA can teach.

    Purely random gates are nearly shut: a LoRA behind them learns hardly anything.
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
    # Training embeds guidance 1 and drawing 3.5, a difference that a random embedding would make too much of.
    transformer.time_text_embed.guidance_embedder.linear_2.weight *= 0.1


@torch.no_grad()
def _autoencoder() -> AutoencoderKL:
    """A real AutoencoderKL, set by hand so that a person recognises what it decodes.

    12 of its 16 latent channels hold the picture at a quarter of its size, 2x2 pixels folded into channels; the other
    four are silent. Residual branches add nothing. The two norms before the last layers are kept from acting by
    channels that are constant, and by carrying every value with both signs, so that SiLU's curve cancels.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()
    scaling, shift = vae.config.scaling_factor, vae.config.shift_factor
    for name, layer in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            _silence(layer)

    spread = STEADY / 2  # of a norm's group: two channels of eight hold plus and minus STEADY
    encoder, down = vae.encoder, [block.downsamplers[0].conv for block in vae.encoder.down_blocks[:3]]
    _set(encoder.conv_in, kernels.each(3, kernels.SAME))
    _set(down[0], kernels.each(3, kernels.MEAN_OF_CELL))
    _set(down[1], kernels.each(3, kernels.MEAN_OF_CELL))
    _set_balanced(down[2], kernels.fold(), encoder.conv_norm_out)
    spectrum = _spectrum()
    read = torch.einsum("oc,cihw->oihw", spectrum, _unbalanced(12, kernels.SAME))
    _set(encoder.conv_out, read * spread / scaling)
    encoder.conv_out.bias[:16] = shift
    encoder.conv_out.bias[16:] = -20.0  # log-variance: next to none

    decoder, up = vae.decoder, [block.upsamplers[0].conv for block in vae.decoder.up_blocks[:3]]
    back = torch.linalg.inv(spectrum)[:, :, None, None] * kernels.SAME * scaling
    _set(decoder.conv_in, back)
    decoder.conv_in.bias[:12] = -shift * back.sum((1, 2, 3))
    _set(up[0], kernels.unfold())
    _set(up[1], kernels.each(3, kernels.BETWEEN))
    _set_balanced(up[2], kernels.each(3, kernels.BETWEEN), decoder.conv_norm_out)
    _set(decoder.conv_out, _unbalanced(3, kernels.SHARPER) * spread)
    return vae


def _spectrum() -> torch.Tensor:
    """(12, 12): 2x2 pixels of each colour to their mean and three differences, each with about unit variance."""
    haar = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 4
    unit = torch.tensor(UNIT)[:, None]
    return torch.kron(torch.eye(3), haar * unit)


def _set(layer: Any, weight: torch.Tensor) -> None:
    """This weight in the first channels of a layer, and zero everywhere else."""
    _silence(layer)
    layer.weight[: weight.shape[0], : weight.shape[1]] = weight


def _silence(layer: Any) -> None:
    layer.weight.zero_()
    layer.bias.zero_()


def _set_balanced(layer: Any, weight: torch.Tensor, norm: Any) -> None:
    """Each group of the norm behind this layer: plus and minus STEADY, three channels, the same three negated."""
    _silence(layer)
    for group, three in enumerate(torch.split(weight, 3)):
        first, inputs = 8 * group, weight.shape[1]
        layer.weight[first + 2 : first + 5, :inputs] = three
        layer.weight[first + 5 : first + 8, :inputs] = -three
    layer.bias[0::8], layer.bias[1::8] = STEADY, -STEADY
    norm.bias.fill_(4.0)  # where SiLU is nearly straight


def _unbalanced(channels: int, kernel: torch.Tensor) -> torch.Tensor:
    """The channels back from what `_set_balanced` made of them."""
    weight = torch.zeros(channels, 8 * GROUPS, 3, 3)
    for channel in range(channels):
        at = channel // 3 * 8 + 2 + channel % 3
        weight[channel, at], weight[channel, at + 3] = kernel / 2, -kernel / 2
    return weight


def _clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE that knows WORDS whole and spells out the rest."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        left, *others = [*word[:-1], f"{word[-1]}</w>"]
        for right in others:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            pieces.append(left)
    vocabulary = dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges, model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    """Unigrams: WORDS are likelier than their letters."""
    words = [(f"▁{word}", -1.0) for word in WORDS.split()]
    letters = [(letter, -5.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=TEXT_LENGTH)

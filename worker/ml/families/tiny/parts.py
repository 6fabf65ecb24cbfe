"""Parts that the tiny bases share: an autoencoder that is set by hand, and a tokenizer of a few words."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from worker.ml import kernels

GROUPS = 4  # of the autoencoder's norms, eight channels each
STEADY = 8.0  # against pixels in -1..1
SPREAD = STEADY / 2  # of a norm's group: two channels of eight hold plus and minus STEADY
UNIT = (2.0, 6.0, 6.0, 12.0)  # scales a picture's means and differences to about unit variance
WORDS = """
a an the of in on at with and front plain by to turned left right from portrait photo picture person man woman face
hair eyes skin glasses beard hat wearing shirt striped jumper hoodie blazer turtleneck dress coat dark light soft
evening sun shade lamplight smiling laughing calm blond brown black red blue green yellow white purple orange grey
pink teal beige studio wall park beach street city night library kitchen mountains autumn wood brick
"""


def set_weight(layer: Any, weight: torch.Tensor) -> None:
    """Put this weight into the first channels of a layer, and zero everywhere else."""
    silence(layer)
    layer.weight[: weight.shape[0], : weight.shape[1]] = weight


def silence(layer: Any) -> None:
    layer.weight.zero_()
    layer.bias.zero_()


def set_balanced(layer: Any, weight: torch.Tensor, norm: Any) -> None:
    """Give each group of the norm behind this layer ±STEADY, three channels, and the same three negated."""
    silence(layer)
    for group, three in enumerate(torch.split(weight, 3)):
        first, inputs = 8 * group, weight.shape[1]
        layer.weight[first + 2 : first + 5, :inputs] = three
        layer.weight[first + 5 : first + 8, :inputs] = -three
    layer.bias[0::8], layer.bias[1::8] = STEADY, -STEADY
    norm.bias.fill_(4.0)  # where SiLU is nearly straight


def unbalanced(channels: int, kernel: torch.Tensor) -> torch.Tensor:
    """Return the weight that undoes `set_balanced`."""
    weight = torch.zeros(channels, 8 * GROUPS, 3, 3)
    for channel in range(channels):
        at = channel // 3 * 8 + 2 + channel % 3
        weight[channel, at], weight[channel, at + 3] = kernel / 2, -kernel / 2
    return weight


@torch.no_grad()
def autoencoder() -> AutoencoderKL:
    """Return a real AutoencoderKL, set by hand so that a person recognises the pictures it decodes.

    Its geometry is FLUX.1's, which families after it took over. 12 of its 16 latent channels hold the picture at a
    quarter of its size, 2x2 pixels folded into channels; the other four are silent. Residual branches add nothing. The
    two norms before the last layers are neutralised by constant channels, and by carrying every value with both signs,
    so that SiLU's curve cancels.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        latent_channels=16,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()
    scaling, shift = vae.config.scaling_factor, vae.config.shift_factor
    for name, layer in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            silence(layer)

    encoder, down = vae.encoder, [block.downsamplers[0].conv for block in vae.encoder.down_blocks[:3]]
    set_weight(encoder.conv_in, kernels.each(3, kernels.SAME))
    set_weight(down[0], kernels.each(3, kernels.MEAN_OF_CELL))
    set_weight(down[1], kernels.each(3, kernels.MEAN_OF_CELL))
    set_balanced(down[2], kernels.fold(), encoder.conv_norm_out)
    spectrum = spectrum_of_cells()
    read = torch.einsum("oc,cihw->oihw", spectrum, unbalanced(12, kernels.SAME))
    set_weight(encoder.conv_out, read * SPREAD / scaling)
    encoder.conv_out.bias[:16] = shift
    encoder.conv_out.bias[16:] = -20.0  # log-variance: almost none

    decoder, up = vae.decoder, [block.upsamplers[0].conv for block in vae.decoder.up_blocks[:3]]
    back = torch.linalg.inv(spectrum)[:, :, None, None] * kernels.SAME * scaling
    set_weight(decoder.conv_in, back)
    decoder.conv_in.bias[:12] = -shift * back.sum((1, 2, 3))
    set_weight(up[0], kernels.unfold())
    set_weight(up[1], kernels.each(3, kernels.BETWEEN))
    set_balanced(up[2], kernels.each(3, kernels.BETWEEN), decoder.conv_norm_out)
    set_weight(decoder.conv_out, unbalanced(3, kernels.SHARPER) * SPREAD)
    return vae


def spectrum_of_cells() -> torch.Tensor:
    """Return (12, 12): 2x2 pixels of each colour to their mean and three differences, each with about unit variance."""
    haar = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 4
    unit = torch.tensor(UNIT)[:, None]
    return torch.kron(torch.eye(3), haar * unit)


def clip_tokenizer() -> CLIPTokenizer:
    """Return a byte-level BPE tokenizer that knows WORDS whole and spells out the rest."""
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


def clip_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return CLIP's text model with random weights, 32 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

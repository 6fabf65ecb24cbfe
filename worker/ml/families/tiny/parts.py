"""Parts that the tiny bases share: an autoencoder that is set by hand, and a tokenizer of a few words."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

GROUPS = 4  # of the autoencoder's norms, eight channels each
STEADY = 8.0  # against pixels in -1..1
SPREAD = STEADY / 2  # of a norm's group: two channels of eight hold plus and minus STEADY
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

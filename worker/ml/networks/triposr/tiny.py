"""A tiny TripoSR for tests and the demo, set by hand, in the official layout.

It has learned nothing about objects. It carries the picture's colours to the plane that the camera looks at, patch by
patch, and lets everything stand out by the same depth that differs from the grey background: a relief, in which a
person recognises the picture, on both sides. Objects of the background's grey are not seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from worker.ml.networks.triposr import loading
from worker.ml.networks.triposr.config import BackboneConfig
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.networks.triposr.vit import MEAN, STD, ViT

SIDE = 16
"""Patches of the picture, and tokens of a plane, along each side."""
_HALF = 4
"""Pixels of a patch's quarter along each side: each becomes one cell of the enlarged planes."""
_CODE = 2 * SIDE
"""Numbers that say where a patch or token is: 1 at its row and at its column."""
_QUARTERS = 12
"""Of a patch: 2 rows, 2 columns, 3 colours."""
_STEADY = 40.0
"""Size of the position code, against which colours hardly change what a layer norm divides by."""
_SHARP = 40.0
"""Of attention: how much more a token's own patch counts than those of its row and column, as an exponent."""
_WIDTH, _CHANNELS = 96, 128
_PROFILE = 2 * _CODE
"""The first channel of the tokens behind the position code; four hold the depth's profile, and colours follow."""
_COLOURS = _PROFILE + 4
_INSIDE, _OUTSIDE, _FLATTENED = 7.0, 1.5, 22.0
"""Raw densities: in the object's middle, beside it, and how much less at the edge of the space in front of it.
The surface is at 4.2."""
_NOTICED = 1.0
"""Sum of the colours' differences from grey, in ImageNet's deviations, that is still background."""

CONFIG: dict[str, Any] = {
    "cond_image_size": 2 * _HALF * SIDE,
    "image_tokenizer_cls": "tsr.models.tokenizers.image.DINOSingleImageTokenizer",
    "image_tokenizer": {"pretrained_model_name_or_path": "vit"},
    "tokenizer_cls": "tsr.models.tokenizers.triplane.Triplane1DTokenizer",
    "tokenizer": {"plane_size": SIDE, "num_channels": _CHANNELS},
    "backbone_cls": "tsr.models.transformer.transformer_1d.Transformer1D",
    "backbone": {
        "in_channels": "${tokenizer.num_channels}",
        "num_attention_heads": 3,
        "attention_head_dim": _WIDTH // 3,
        "num_layers": 1,
        "cross_attention_dim": _WIDTH,
    },
    "post_processor_cls": "tsr.models.network_utils.TriplaneUpsampleNetwork",
    "post_processor": {"in_channels": _CHANNELS, "out_channels": 4},
    "decoder_cls": "tsr.models.network_utils.NeRFMLP",
    "decoder": {"in_channels": 12, "n_neurons": 16, "n_hidden_layers": 2, "activation": "relu"},
    "renderer_cls": "tsr.models.nerf_renderer.TriplaneNeRFRenderer",
    "renderer": {"radius": 0.87, "feature_reduction": "concat", "density_activation": "exp", "density_bias": -1.0},
}
VIT = {
    "model_type": "vit",
    "hidden_size": _WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 2 * _HALF * SIDE,
    "patch_size": 2 * _HALF,
    "layer_norm_eps": 1e-12,
}


@torch.no_grad()
def build_tiny(folder: Path) -> None:
    """Write the configuration and the weights, about a megabyte."""
    (folder / "vit").mkdir(parents=True, exist_ok=True)
    (folder / "vit" / "config.json").write_text(json.dumps(VIT, indent=2) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    network = loading.build(folder).to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.zero_()
    _set_vit(network.image_tokenizer.model)
    _set_tokens(network.tokenizer.embeddings)
    _set_backbone(network.backbone, network.config.backbone)
    _set_planes(network.post_processor.upsample.weight)
    _set_decoder(network)
    save_file(network.state_dict(), folder / loading.WEIGHTS)


def _codes() -> torch.Tensor:
    """Return the position codes (SIDE, SIDE, _CODE) by row and column."""
    one = torch.eye(SIDE)
    rows, columns = one[:, None].expand(-1, SIDE, -1), one[None].expand(SIDE, -1, -1)
    return torch.cat([rows, columns], dim=-1)


def _balanced(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers (…, C) and their negatives in turn, (…, 2·C): norms find their mean at 0."""
    return torch.stack([numbers, -numbers], dim=-1).flatten(-2)


def _set_vit(vit: ViT) -> None:
    """Tokens are the position code (64), then means of the patch's quarters (24), each with its negative."""
    table = torch.zeros(SIDE, SIDE, _WIDTH)
    table[..., : 2 * _CODE] = _balanced(_codes() * _STEADY)
    vit.embeddings.position_embeddings[0, 1:] = table.flatten(0, 1)
    quarters = torch.zeros(2, 2, 3, 3, 2 * _HALF, 2 * _HALF)
    for row, column, colour in _quarters():
        rows, columns = (slice(place * _HALF, (place + 1) * _HALF) for place in (row, column))
        quarters[row, column, colour, colour, rows, columns] = 1 / _HALF**2
    projection = vit.embeddings.patch_embeddings["projection"]
    assert isinstance(projection, torch.nn.Conv2d)
    projection.weight[2 * _CODE : 2 * _CODE + 2 * _QUARTERS] = _balanced(
        quarters.flatten(0, 2).permute(1, 2, 3, 0)
    ).permute(3, 0, 1, 2)
    vit.layernorm.weight.fill_(_deviation(_WIDTH))


def _deviation(width: int) -> float:
    """Return what a layer norm of so many channels divides a position code by."""
    return float((4 * _STEADY**2 / width) ** 0.5)


def _set_tokens(embeddings: torch.Tensor) -> None:
    """Tokens of the plane that faces the camera know their patch, those of the plane above know the depth."""
    facing = _codes().flip(0)  # the plane's rows run upwards, the picture's down
    embeddings[2, : 2 * _CODE] = _balanced(facing).permute(2, 0, 1)
    depth = ((torch.arange(2 * SIDE) + 0.5) / SIDE - 1).square().reshape(SIDE, 2)  # of a token's two cells along x
    embeddings[0, _PROFILE : _PROFILE + 4] = _balanced(depth).T[:, None].expand(-1, SIDE, -1)


def _set_backbone(backbone: Any, config: BackboneConfig) -> None:
    """Each token takes the quarters of its own patch, and keeps what it has."""
    backbone.norm.weight.fill_(1)
    backbone.proj_in.weight[: 2 * _CODE, : 2 * _CODE] = torch.eye(2 * _CODE)
    (block,) = backbone.transformer_blocks
    block.norm2.weight.fill_(1 / (_WIDTH / 4) ** 0.5)  # codes of 1 and -1 again
    attention = block.attn2
    attention.to_q.weight[:_CODE, : 2 * _CODE : 2] = torch.eye(_CODE) * _SHARP * config.attention_head_dim**0.5
    attention.to_k.weight[:_CODE, : 2 * _CODE : 2] = torch.eye(_CODE) / _STEADY
    attention.to_v.weight[:_QUARTERS, 2 * _CODE : 2 * _CODE + 2 * _QUARTERS : 2] = torch.eye(_QUARTERS)
    attention.to_out[0].weight[2 * _CODE : 2 * _CODE + _QUARTERS, :_QUARTERS] = torch.eye(_QUARTERS)
    backbone.proj_out.weight[_COLOURS : _COLOURS + _QUARTERS, 2 * _CODE : 2 * _CODE + _QUARTERS] = torch.eye(_QUARTERS)


def _set_planes(weight: torch.Tensor) -> None:
    """Quarters become cells: channels 0…2 are colours, 3 is the depth's profile."""
    for number, (row, column, colour) in enumerate(_quarters()):
        weight[_COLOURS + number, colour, 1 - row, column] = 1
    for column in (0, 1):
        weight[_PROFILE + 2 * column, 3, :, column] = 1


def _quarters() -> list[tuple[int, int, int]]:
    return [(row, column, colour) for row in (0, 1) for column in (0, 1) for colour in (0, 1, 2)]


def _set_decoder(network: TripoSR) -> None:
    """What differs from grey is dense, the less the further from the middle; colours pass."""
    first, second, last = (layer for layer in network.decoder.layers if isinstance(layer, torch.nn.Linear))
    grey = [(0.5 - mean) / deviation for mean, deviation in zip(MEAN, STD, strict=True)]
    positive = 4.0  # more than any colour is below ImageNet's mean, in deviations
    facing, above = 8, 0  # where the planes' features begin
    for colour in (0, 1, 2):
        for neuron, sign in ((2 * colour, 1.0), (2 * colour + 1, -1.0)):
            first.weight[neuron, facing + colour], first.bias[neuron] = sign, -sign * grey[colour]
        first.weight[6 + colour, facing + colour], first.bias[6 + colour] = 1.0, positive
        second.weight[2 + colour, 6 + colour] = 1.0
        # A sigmoid of four times a colour's distance from the middle is nearly the colour.
        last.weight[1 + colour, 2 + colour] = 4 * STD[colour]
        last.bias[1 + colour] = 4 * (MEAN[colour] - 0.5 - positive * STD[colour])
    first.weight[9, above + 3] = 1.0
    second.weight[5, 9] = 1.0
    second.weight[:2, :6] = 1.0  # two of them, one unit apart: their difference is between 0 and 1
    second.bias[0], second.bias[1] = -_NOTICED, -_NOTICED - 1
    last.weight[0, 0], last.weight[0, 1] = _INSIDE - _OUTSIDE, _OUTSIDE - _INSIDE
    last.weight[0, 5], last.bias[0] = -_FLATTENED, _OUTSIDE

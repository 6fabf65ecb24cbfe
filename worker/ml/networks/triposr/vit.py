"""The vision transformer that reads the picture: DINO's ViT, in the names that transformers 4 gave its layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from worker.ml.networks.triposr.config import ViTConfig

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, which the pictures are normalised with."""
_POSITION_OFFSET = 0.1
"""Added to the number of patches a side before it is divided by the table's: see `interpolated`."""


class ImageTokenizer(nn.Module):
    """Tokens of a picture: (B, H, W, 3) in 0…1 to (B, 1 + patches, hidden_size), the class token first."""

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.model = ViT(config)
        mean, std = self.colours()
        self.register_buffer("image_mean", mean, persistent=False)
        self.register_buffer("image_std", std, persistent=False)

    @staticmethod
    def colours() -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of each colour, (1, 3, 1, 1): constants, which no checkpoint holds."""
        return torch.tensor(MEAN).reshape(1, 3, 1, 1), torch.tensor(STD).reshape(1, 3, 1, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        normalised = (pictures.permute(0, 3, 1, 2) - self.image_mean) / self.image_std
        tokens: torch.Tensor = self.model(normalised)
        return tokens


class ViT(nn.Module):
    """(B, 3, H, W), normalised, to the last layer's normalised tokens. The pooler is in the checkpoint, and unused."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})
        self.layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(pixels)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            hidden = layer(hidden)
        normalised: torch.Tensor = self.layernorm(hidden)
        return normalised


class _Embeddings(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        patches = (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + patches, config.hidden_size))
        convolution = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.patch_embeddings = nn.ModuleDict({"projection": convolution})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings["projection"](pixels)
        height, width = patches.shape[-2:]
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return tokens + interpolated(self.position_embeddings, height, width)


def interpolated(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize a table of positions (1, 1 + n², C) to (1, 1 + height·width, C).

    The checkpoint wants the rule of transformers 4: bicubic by a scale factor that is 0.1 patches too large. torch
    uses that factor for its coordinates too, so the result differs from a resize to the size. transformers 5 does that.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return table
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((height + _POSITION_OFFSET) / side, (width + _POSITION_OFFSET) / side)
    resized = functional.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class _Layer(nn.Module):
    """Attention and a feed-forward network, each normalised before and added to its input."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.layernorm_before = nn.LayerNorm(width, config.layer_norm_eps)
        self.attention = _Attention(config)
        self.layernorm_after = nn.LayerNorm(width, config.layer_norm_eps)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.layernorm_before(hidden))
        inner = functional.gelu(self.intermediate["dense"](self.layernorm_after(hidden)))
        added: torch.Tensor = hidden + self.output["dense"](inner)
        return added


class _Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = _Heads(config)
        self.output = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.output["dense"](self.attention(hidden))
        return projected


class _Heads(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        return functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)

"""The transformer whose triplane tokens attend to one another and to the picture's tokens."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from worker.ml.networks.triposr.config import BackboneConfig


class Transformer1D(nn.Module):
    """Triplane tokens (B, C, N) and a picture's tokens (B, M, cross_attention_dim) to triplane tokens (B, C, N)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.num_attention_heads * config.attention_head_dim
        self.norm = nn.GroupNorm(config.norm_num_groups, config.in_channels, eps=1e-6)
        self.proj_in = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(_Block(config, width) for _ in range(config.num_layers))
        self.proj_out = nn.Linear(width, config.in_channels)

    def forward(self, tokens: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        hidden = self.proj_in(self.norm(tokens).transpose(1, 2))
        for block in self.transformer_blocks:
            hidden = block(hidden, picture)
        added: torch.Tensor = self.proj_out(hidden).transpose(1, 2) + tokens
        return added


class _Block(nn.Module):
    def __init__(self, config: BackboneConfig, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = _Attention(config, width, width)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = _Attention(config, width, config.cross_attention_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = _FeedForward(width)

    def forward(self, hidden: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        normalised = self.norm1(hidden)
        hidden = hidden + self.attn1(normalised, normalised)
        hidden = hidden + self.attn2(self.norm2(hidden), picture)
        added: torch.Tensor = hidden + self.ff(self.norm3(hidden))
        return added


class _Attention(nn.Module):
    def __init__(self, config: BackboneConfig, width: int, context_width: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.to_q = nn.Linear(width, width, bias=config.attention_bias)
        self.to_k = nn.Linear(context_width, width, bias=config.attention_bias)
        self.to_v = nn.Linear(context_width, width, bias=config.attention_bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(hidden), self.to_k(context), self.to_v(context))
        )
        attended = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        projected: torch.Tensor = self.to_out[0](attended)
        return projected


class _FeedForward(nn.Module):
    """A gated network: one half of the inner channels times the GELU of the other (GEGLU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        gated = nn.ModuleDict({"proj": nn.Linear(width, 2 * inner)})
        self.net = nn.ModuleList([gated, nn.Identity(), nn.Linear(inner, width)])  # the identity was dropout

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gated, _, out = self.net
        values, gates = gated["proj"](hidden).chunk(2, dim=-1)  # type: ignore[index]
        projected: torch.Tensor = out(values * functional.gelu(gates))
        return projected

"""Encoded prompts, of one length or each of its own, and nothing else that a denoiser is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from worker.ml.protocol import Framing


class Unframed:
    """Of families whose denoiser is not told how a photo was framed."""

    def frame(self, condition: Any, framings: Sequence[Framing]) -> Any:
        return condition


@dataclass(frozen=True)
class Tokens:
    """Prompts as the hidden states of their tokens, on the device, in the encoder's dtype. A `Condition`."""

    tokens: torch.Tensor  # (B, L, D)

    @property
    def rows(self) -> int:
        return len(self.tokens)

    def join(self, others: Sequence[Self]) -> Self:
        return type(self)(*(torch.cat([getattr(one, own.name) for one in (self, *others)]) for own in fields(self)))

    def take(self, rows: torch.Tensor) -> Self:
        return type(self)(*(getattr(self, own.name)[rows] for own in fields(self)))


@dataclass(frozen=True)
class PooledTokens(Tokens):
    """With one embedding of the whole prompt beside them."""

    pooled: torch.Tensor  # (B, P)


@dataclass(frozen=True)
class RaggedTokens:
    """Prompts as the hidden states of their own tokens, without padding. A `Condition`."""

    tokens: tuple[torch.Tensor, ...]  # (length, D) each

    @property
    def rows(self) -> int:
        return len(self.tokens)

    def join(self, others: Sequence[Self]) -> Self:
        return type(self)(tuple(row for one in (self, *others) for row in one.tokens))

    def take(self, rows: torch.Tensor) -> Self:
        return type(self)(tuple(row for row, taken in zip(self.tokens, rows.tolist(), strict=True) if taken))

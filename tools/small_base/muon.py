"""Muon (Keller Jordan, 2024): orthogonalised momentum, which trains small networks in fewer steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration in Jordan's article
ROUNDS = 4  # a fifth makes no difference for networks as narrow as these


class Muon(torch.optim.Optimizer):
    """An optimizer for weights of two and more dimensions. A convolution is a matrix: output channels by the rest.

    Args:
        lr: as for AdamW: an update's root mean square is 0.2 lr (arXiv 2502.16982, 2.2).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[(len(weight), weight[0].numel())].append(weight)
            for weights in alike.values():
                updates = torch.stack([self._momentum(weight, group["momentum"]) for weight in weights])
                for weight, update in zip(weights, orthogonal(updates), strict=True):
                    weight.add_(update.view_as(weight), alpha=-0.2 * group["lr"] * max(update.shape) ** 0.5)

    def _momentum(self, weight: torch.nn.Parameter, share: float) -> torch.Tensor:
        assert weight.grad is not None
        average: torch.Tensor = self.state[weight].setdefault("average", torch.zeros_like(weight))
        average.lerp_(weight.grad, 1 - share)
        return weight.grad.lerp(average, share).flatten(1)  # Nesterov's


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Replace each of the matrices (B, M, N) approximately by the nearest one with equal singular values."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide is matrices else x.mT).to(matrices.dtype)

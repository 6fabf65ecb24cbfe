"""Linear layers whose weights are quantised and made wide again whenever they are used."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.amp.autocast_mode import is_autocast_available


class QuantisedLinear(torch.nn.Linear):
    """A linear layer that was quantised: `weight` has its codes, integers that no LoRA can be merged into.

    All of its own tensors are plain ones in buffers, so they move as any other part's do. Its bias is the plain
    layer's, and shared with it.
    """

    def __init__(self, plain: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)  # Linear's own would make weights
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.bias = plain.bias
        self.compute_dtype = plain.weight.dtype  # PEFT gives attached LoRAs this precision

    @abstractmethod
    def wide(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights (out, in) in this precision, on the layer's device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, in) to (…, out) in the precision of the input, the plain layer's if that is wider, or of autocast."""
        return cast(torch.Tensor, _Multiplied.apply(x.to(_precision(x, self.compute_dtype)), self))


class _Multiplied(torch.autograd.Function):
    """A linear map that keeps no wide weights for its backward pass, which makes them again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantisedLinear) -> torch.Tensor:
        ctx.layer = layer
        bias = cast(torch.Tensor | None, layer.bias)
        return F.linear(x, layer.wide(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.wide(gradient.dtype), None


def _precision(x: torch.Tensor, layers_own: torch.dtype) -> torch.dtype:
    """Return the precision in which torch's own layer would compute.

    Some layers of encoders are in float32 beside float16, to which their callers cast what a plain layer reads.
    """
    kind = x.device.type
    autocast = is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else torch.promote_types(x.dtype, layers_own)

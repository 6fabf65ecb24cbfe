"""Weights in 8 bits: symmetric, with a scale for each row, which is an output."""

from __future__ import annotations

import torch

from worker.ml.quantise.linear import QuantisedLinear

_LARGEST = 127
_SCALE_BYTES = 4


class Int8Linear(QuantisedLinear):
    """One byte a weight and a float32 scale a row. Half a step of a row is at most 1/254 of its largest weight."""

    scale: torch.Tensor

    def __init__(self, plain: torch.nn.Linear, device: torch.device) -> None:
        """Quantise a layer on the device; the result is where the weights are."""
        super().__init__(plain)
        weights = plain.weight.detach().to(device, torch.float32)
        scale = weights.abs().amax(1, keepdim=True) / _LARGEST
        # A row of zeros has no scale, and one that is not finite must not become a finite one.
        codes = (weights / torch.where(scale == 0, 1, scale)).round().clamp(-_LARGEST, _LARGEST)
        self.register_buffer("weight", codes.to(torch.int8).to(plain.weight.device))
        self.register_buffer("scale", scale.to(plain.weight.device))

    @staticmethod
    def nbytes(plain: torch.nn.Linear) -> int:
        """Return the size of a layer once it is quantised, without its bias."""
        return plain.out_features * (plain.in_features + _SCALE_BYTES)

    def wide(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights (out, in), rounded to this precision once more."""
        return self.weight.to(dtype).mul_(self.scale)

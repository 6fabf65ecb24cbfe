"""Weights in 4 bits: NormalFloat, with a scale for each 64 weights that is quantised too (QLoRA, arXiv 2305.14314, 3).

bitsandbytes' functions quantise and dequantise, on a GPU and on a CPU. Its layer `Linear4bit` is not used: on some CPUs
it repacks its weights in place the first time that it is called, and weights never change here.
"""

from __future__ import annotations

import importlib
import logging
import math
from typing import Any, cast

import torch

from worker.ml.quantise.linear import QuantisedLinear

_BLOCK = 64  # weights that share a scale
_SCALES_BLOCK = 256  # scales that share one of their own
_TABLES = 16 + 256  # float32 values of the codes, and of the scales' codes
_TENSORS = ("absmax", "code", "offset", "scales_absmax", "scales_code")


class Nf4Linear(QuantisedLinear):
    """Half a byte a weight, a byte for each 64, four for each 16,384, and two tables."""

    def __init__(self, plain: torch.nn.Linear, device: torch.device) -> None:
        """Quantise a layer on the device; the result is where the weights are."""
        super().__init__(plain)
        codes, state = _functional().quantize_4bit(
            plain.weight.detach().to(device).contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
        )
        # int8 for uint8: what is neither int8 nor its own precision, T5 converts its activations to.
        self.register_buffer("weight", codes.view(torch.int8).to(plain.weight.device))
        kept = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
        for name, tensor in zip(_TENSORS, kept, strict=True):
            self.register_buffer(name, tensor.to(plain.weight.device))

    @staticmethod
    def nbytes(plain: torch.nn.Linear) -> int:
        """Return the size of a layer once it is quantised, without its bias."""
        weights = plain.in_features * plain.out_features
        scales = math.ceil(weights / _BLOCK)
        return math.ceil(weights / 2) + scales + 4 * (math.ceil(scales / _SCALES_BLOCK) + _TABLES + 1)

    def wide(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights (out, in) in this precision."""
        functional = _functional()
        absmax, code, offset, scales_absmax, scales_code = (getattr(self, name) for name in _TENSORS)
        scales = functional.QuantState(
            absmax=scales_absmax, code=scales_code, blocksize=_SCALES_BLOCK, dtype=torch.float32
        )
        state = functional.QuantState(
            absmax=absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=code,
            blocksize=_BLOCK,
            quant_type="nf4",
            dtype=dtype,
            offset=offset,
            state2=scales,
        )
        return cast(torch.Tensor, functional.dequantize_4bit(self.weight.view(torch.uint8), state))


def _functional() -> Any:
    """Import it at first use: where nothing is quantised, it may be missing."""
    # On CPUs with AVX-512 for bfloat16 it warns that the package kernels is missing: for layers that are not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return importlib.import_module("bitsandbytes.functional")


def has_bitsandbytes() -> bool:
    """Return True if bitsandbytes (the `gpu` extra) can be imported, which fails where it is built for another CUDA."""
    try:
        _functional()
    except (ImportError, OSError, RuntimeError):
        return False
    return True

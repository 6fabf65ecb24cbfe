"""How a training step is made to fit the device: what is given up, in the order of what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from worker.ml.models import Base
from worker.ml.train.batches import Sample
from worker.ml.train.optimizer import has_eight_bit

_USABLE = 0.8  # of the free memory: estimates are rough, and the allocator leaves gaps
_CHECKPOINTED = 0.2
"""The share of the activations that gradient checkpointing leaves: one hidden state a block, and the activations of the
block that is computed again. FLUX.1 at 512 x 512: 0.9 of 9.7 GiB. In the U-Net of SD 1.5, a layer of the largest level
alone is 11 %.
"""
_FULL_STATE, _EIGHT_BIT_STATE = 8, 2 + 8 / 256  # bytes a weight: two moments; in 8 bits, with a scale for each 256
_GRADIENT = 4  # bytes a weight


@dataclass(frozen=True)
class Savings:
    """What is given up for memory."""

    checkpointing: bool = False
    """Compute activations again in the backward pass, which takes about a third of the speed."""
    eight_bit: bool = False
    """Keep the optimizer's state in 8 bits."""


def savings_for(base: Base, samples: Sequence[Sample], batch_size: int, lora: Iterable[torch.Tensor]) -> Savings:
    """Choose for a step on the largest of the samples, with the LoRA already on the device."""
    free = free_bytes(base.device)
    if free is None:
        return Savings()
    largest = max((sample.grid for sample in samples), key=math.prod)
    activations = base.family.activation_bytes(base.parts, largest, batch_size)
    return cheapest_savings(activations, sum(weights.numel() for weights in lora), free, eight_bit=has_eight_bit())


def cheapest_savings(activations: int, weights: int, free: int, *, eight_bit: bool) -> Savings:
    """Return the first that fits into `free` bytes of none, checkpointing, and 8 bits too (if `eight_bit`).

    `activations` (bytes) are those of a step without checkpointing; `weights` (a number) those of the LoRA. If none
    fits, return the last: the estimates are high rather than low.
    """
    full = weights * (_GRADIENT + _FULL_STATE)
    if activations + full <= _USABLE * free:
        return Savings()
    if _CHECKPOINTED * activations + full <= _USABLE * free:
        return Savings(checkpointing=True)
    return Savings(checkpointing=True, eight_bit=eight_bit)


def free_bytes(device: torch.device) -> int | None:
    """Return the device's free memory; None where it shares the host's, and nothing is planned."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # what this process caches, the encoders' memory for one, is free too
    return torch.cuda.mem_get_info(device)[0]

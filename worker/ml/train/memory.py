"""How a training step is made to fit the device: what is given up, in the order of what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from worker.ml import memory
from worker.ml.models import Base
from worker.ml.train.batches import Sample

_USABLE = 0.8  # of the memory free for a step: estimates are rough, and the allocator leaves gaps
_WEIGHT = _GRADIENT = 4  # bytes a weight
_FULL_STATE, _EIGHT_BIT_STATE = 8, 2 + 8 / 256  # bytes a weight: two moments; in 8 bits, with a scale for each 256


@dataclass(frozen=True)
class Savings:
    """What is given up for memory."""

    checkpointing: bool = False
    """Compute activations again in the backward pass, which takes about a third of the speed."""
    eight_bit: bool = False
    """Keep the optimizer's state in 8 bits."""

    def __str__(self) -> str:
        words = ["gradient checkpointing"] * self.checkpointing + ["8-bit AdamW"] * self.eight_bit
        return f" with {' and '.join(words)}" if words else ""


@dataclass(frozen=True)
class StepMemory:
    """What a training takes of the device's memory, in bytes."""

    denoiser: int
    activations: int
    """Of a step on the largest sample, without checkpointing."""
    checkpointed: int
    """The same with it."""
    weights: int
    """How many weights the LoRA has."""

    @property
    def resident(self) -> int:
        """The denoiser and the LoRA."""
        return self.denoiser + self.weights * _WEIGHT

    def step(self, savings: Savings) -> int:
        """Return what a step adds: activations, gradients and the optimizer's state."""
        state = _EIGHT_BIT_STATE if savings.eight_bit else _FULL_STATE
        kept = self.checkpointed if savings.checkpointing else self.activations
        return kept + int(self.weights * (_GRADIENT + state))

    def needed(self, savings: Savings) -> int:
        """Return what must be free for the whole training."""
        return self.resident + int(self.step(savings) / _USABLE)

    def savings(self, free: int | None, *, eight_bit: bool) -> Savings:
        """Return the first that fits into `free` bytes of none, checkpointing, and 8 bits too (if `eight_bit`).

        `free` includes what is resident, and is None where the device shares the host's memory. If none fits, return
        the last: the estimates are high rather than low.
        """
        if free is None:
            return Savings()
        choices = [Savings(), Savings(checkpointing=True), Savings(checkpointing=True, eight_bit=eight_bit)]
        return next((savings for savings in choices if self.needed(savings) <= free), choices[-1])

    def describe(self, savings: Savings, free: int | None, device: str) -> str:
        """Return the plan in words, as `Plan.describe` does for drawing."""
        words = f"one part at a time, {device}"
        if free is None:
            return f"{words}{savings}"
        return f"{words}: {memory.describe_need(self.needed(savings), free)}{savings}"


def free_for_training(base: Base, needs: StepMemory) -> int | None:
    """Return the memory for a training whose denoiser and LoRA are on the device already; None as `savings` has it."""
    free = memory.free_device_bytes(base.device)
    return None if free is None else free + needs.resident


def step_memory(base: Base, samples: Sequence[Sample], batch_size: int, lora: Iterable[torch.Tensor]) -> StepMemory:
    """Return what training on these samples takes."""
    largest = max((sample.grid for sample in samples), key=math.prod)
    activations = base.family.activation_bytes(base.parts, largest, batch_size)
    return StepMemory(
        denoiser=base.part_bytes(base.family.denoiser),
        activations=activations,
        checkpointed=int(activations * base.family.checkpointed_share),
        weights=sum(weights.numel() for weights in lora),
    )

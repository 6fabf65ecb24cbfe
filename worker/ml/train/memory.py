"""How a training is made to fit the device: what is given up, in the order of what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from worker.ml import memory
from worker.ml.models import Base
from worker.ml.protocol import Grid
from worker.ml.quantise.forms import is_streamed
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


@dataclass(frozen=True)
class TrainingPlan:
    """How a training fits the device."""

    needs: StepMemory
    savings: Savings
    free: int | None
    """What is free for it; None where the device shares the host's memory."""
    form: str = memory.PLAIN
    """The denoiser's, see `quantise/`."""
    plain_bytes: int | None = None
    """What it would need at least with a plain denoiser; None if that was no choice."""

    def describe(self, device: str, forms: Mapping[str, str]) -> str:
        """Return the plan in words, as `Plan.describe` does for drawing. `forms` are those of all parts."""
        words = f"one part at a time, {device}"
        if self.free is not None:
            words += f": {memory.describe_need(self.needs.needed(self.savings), self.free)}"
        words += str(self.savings)
        return memory.describe_forms(forms, words, None if self.form == memory.PLAIN else self.plain_bytes)


def plan_training(needs: Mapping[str, StepMemory], free: int | None, *, eight_bit: bool) -> TrainingPlan:
    """Return the plan that gives up least of what fits into `free` bytes.

    `needs` is what the training takes by form of the denoiser, from the most exact to the smallest. In each form all
    savings are tried before the next. If nothing fits, return the last.
    """
    plans = {}
    for form, step in needs.items():
        savings = step.savings(free, eight_bit=eight_bit)
        plans[form] = TrainingPlan(step, savings, free, form)
        if free is None or step.needed(savings) <= free:
            break
    plan, plain = [*plans.values()][-1], plans.get(memory.PLAIN)
    return plan if plain is None else replace(plan, plain_bytes=plain.needs.needed(plain.savings))


def memory_needed(base: Base, samples: Sequence[Sample], batch_size: int, rank: int) -> dict[str, StepMemory]:
    """Return what training a LoRA of this rank on these samples takes, by the forms that can be trained on."""
    largest = max((sample.grid for sample in samples), key=math.prod)
    checkpointing = base.denoiser.is_gradient_checkpointing  # which removing a LoRA ends
    with base.family.new_lora(base.parts, rank, torch.Generator()) as lora:
        weights = sum(factor.numel() for factor in lora.values())
    if checkpointing:
        base.denoiser.enable_gradient_checkpointing()
    return {form: step_memory(base, form, largest, batch_size, weights) for form in trainable_forms(base)}


def trainable_forms(base: Base) -> list[str]:
    """Return the forms of the denoiser that can be trained on."""
    return [form for form in base.forms if not is_streamed(form)]


def step_memory(base: Base, form: str, grid: Grid, batch_size: int, weights: int) -> StepMemory:
    """Return what training a LoRA of so many weights on this grid takes with the denoiser in this form."""
    activations = base.family.activation_bytes(base.parts, grid, batch_size)
    denoiser, work = base.denoiser_bytes(form)
    return StepMemory(
        denoiser=denoiser,
        activations=activations + work,
        checkpointed=int(activations * base.family.checkpointed_share) + work,
        weights=weights,
    )

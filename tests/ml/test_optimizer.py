"""AdamW, its 8-bit form where memory asks for it, and a checkpoint that passes from one to the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tests.ml.families import only_flux
from tests.ml.runs import finish, lora_config
from worker.ml import memory, models
from worker.ml.models import Base
from worker.ml.phases import Phase
from worker.ml.quantise.nf4 import has_bitsandbytes
from worker.ml.train.batches import Photo
from worker.ml.train.checkpoints import LoopState, read_checkpoint, write_checkpoint
from worker.ml.train.memory import Savings, StepMemory, TrainingPlan
from worker.ml.train.optimizer import adamw
from worker.ml.train.train_lora import Checkpoint, Run, Step, train

needs_bitsandbytes = pytest.mark.skipif(not has_bitsandbytes(), reason="needs bitsandbytes (the gpu extra)")
GIB = 2**30


# -- which one

LARGE = StepMemory(denoiser=22 * GIB, activations=10 * GIB, checkpointed=2 * GIB, weights=45_000_000)
"""A denoiser of 22 GiB and a LoRA of 45 million weights, whose step keeps 10 GiB of activations, or 2."""


@pytest.mark.parametrize(
    ("free_gib", "savings"),
    [
        (None, Savings()),
        (22 + 14, Savings()),
        (22 + 12, Savings(checkpointing=True)),
        (22 + 3.4, Savings(checkpointing=True)),
        (22 + 3, Savings(checkpointing=True, eight_bit=True)),
        (12, Savings(checkpointing=True, eight_bit=True)),
    ],
)
def test_speed_is_given_up_for_memory_before_precision_and_neither_without_need(
    free_gib: float | None, savings: Savings
) -> None:
    free = None if free_gib is None else int(free_gib * GIB)
    assert LARGE.savings(free, eight_bit=True) == savings


@only_flux
def test_what_the_base_has_on_the_device_is_free_for_a_training(
    tiny_base: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(GIB)
    base = models.load(tiny_base, "cpu")
    assert base.free_bytes == GIB
    base.place(base.family.denoiser)
    assert base.free_bytes == GIB + base.part_bytes(base.family.denoiser)


def test_bitsandbytes_that_cannot_be_imported_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built for another CUDA, it is installed, and raises when it is imported."""
    (tmp_path / "bitsandbytes.py").write_text("raise RuntimeError('CUDA Setup failed')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    assert not has_bitsandbytes()


def test_without_bitsandbytes_the_optimizer_stays_the_same() -> None:
    assert LARGE.savings(GIB, eight_bit=False) == Savings(checkpointing=True)


@pytest.mark.parametrize(
    ("free_gib", "savings", "words"),
    [
        (None, Savings(checkpointing=True), "one part at a time, here with gradient checkpointing"),
        (80, Savings(), "one part at a time, here: needs 35.3 of 80.0 GiB free"),
        (
            23,
            Savings(checkpointing=True, eight_bit=True),
            "one part at a time, here: may not fit: needs 25.0 of 23.0 GiB free with gradient checkpointing "
            "and 8-bit AdamW",
        ),
    ],
)
def test_the_plan_of_a_training_is_told_in_words(free_gib: float | None, savings: Savings, words: str) -> None:
    free = None if free_gib is None else int(free_gib * GIB)
    assert TrainingPlan(LARGE, savings, free).describe("here", {}) == words


# -- a checkpoint of the other kind


def state_of(weights: Mapping[str, torch.nn.Parameter], *, eight_bit: bool) -> LoopState:
    optimizer = adamw(weights.values(), 1e-2, eight_bit=eight_bit)
    return LoopState(weights, optimizer, torch.amp.GradScaler("cpu", enabled=False), losses=[])


def new_weights() -> dict[str, torch.nn.Parameter]:
    """One that bitsandbytes keeps in 8 bits, with a last block that is not full, and one that is too small for that."""
    return {"large": torch.nn.Parameter(torch.zeros(70, 70)), "small": torch.nn.Parameter(torch.zeros(16, 8))}


def learn(state: LoopState, steps: range) -> None:
    """Take steps with gradients that have a direction, a size that differs from row to row, and noise."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for weights in state.lora.values():
            rows = torch.logspace(-3, 0, len(weights))[:, None]
            weights.grad = rows * (1 + torch.randn(weights.shape, generator=generator))
        state.optimizer.step()
        state.losses.append(1.0)


def passed_on(folder: Path, *, before: bool, after: bool) -> tuple[LoopState, LoopState]:
    """A state after 20 steps, and what another optimizer read from its checkpoint; True means 8 bits."""
    first, second = state_of(new_weights(), eight_bit=before), state_of(new_weights(), eight_bit=after)
    learn(first, range(20))
    assert read_checkpoint(write_checkpoint(folder, {}, first), {}, second) is None
    return first, second


@needs_bitsandbytes
@pytest.mark.parametrize("kind", [False, True], ids=["full", "8 bits"])
def test_the_same_kind_goes_on_bit_for_bit(tmp_path: Path, kind: bool) -> None:
    first, second = passed_on(tmp_path, before=kind, after=kind)
    for state in (first, second):
        learn(state, range(20, 30))
    assert all(torch.equal(first.lora[name], second.lora[name]) for name in first.lora)


@needs_bitsandbytes
@pytest.mark.parametrize("before", [False, True], ids=["full to 8 bits", "8 bits to full"])
def test_the_other_kind_goes_on_where_the_first_stopped(tmp_path: Path, before: bool) -> None:
    """Its next steps are those of the first optimizer, as near as 8 bits are. A new optimizer's differ by a half."""
    first, second = passed_on(tmp_path, before=before, after=not before)
    assert all(torch.equal(first.lora[name], second.lora[name]) for name in first.lora)
    start = {name: weights.detach().clone() for name, weights in first.lora.items()}
    for state in (first, second):
        learn(state, range(20, 23))
    for name, tolerance in (("large", 0.02), ("small", 1e-5)):
        moved, moved_too = (state.lora[name] - start[name] for state in (first, second))
        assert (moved - moved_too).norm() < tolerance * moved.norm(), name


@needs_bitsandbytes
def test_moments_that_are_zero_stay_zero(tmp_path: Path) -> None:
    """At the first step of a LoRA, the gradient of every A is zero: blocks without any scale."""
    first = state_of(new_weights(), eight_bit=False)
    for weights in first.lora.values():
        weights.grad = torch.zeros_like(weights)
    first.optimizer.step()
    second = state_of(new_weights(), eight_bit=True)
    read_checkpoint(write_checkpoint(tmp_path, {}, first), {}, second)
    learn(second, range(3))
    assert all(weights.isfinite().all() for weights in second.lora.values())


def test_a_state_of_an_unknown_optimizer_is_dropped_with_the_reason_and_the_weights_are_kept(tmp_path: Path) -> None:
    first, second = state_of(new_weights(), eight_bit=False), state_of(new_weights(), eight_bit=False)
    first.optimizer = torch.optim.SGD(first.lora.values(), lr=1.0, momentum=0.9)
    learn(first, range(3))
    lost = read_checkpoint(write_checkpoint(tmp_path, {}, first), {}, second)
    assert lost == "the optimizer's state has ['momentum_buffer'], which AdamW cannot use"
    assert all(torch.equal(first.lora[name], second.lora[name]) for name in first.lora)
    assert len(second.losses) == 3
    learn(second, range(3, 5))


@needs_bitsandbytes
@only_flux
@pytest.mark.parametrize("before", [False, True], ids=["full to 8 bits", "8 bits to full"])
def test_a_training_resumes_on_a_device_with_more_or_less_memory(
    base: Base, photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    config = lora_config(steps=6, rank=32, learning_rate=2e-3, resolution=32)

    def with_memory(scarce: bool) -> None:
        monkeypatch.setattr(memory, "free_device_bytes", lambda device: 0 if scarce else None)

    with_memory(before)
    run = train(base, photos[:4], config, Run(tmp_path, checkpoint_every_s=0))
    checkpoint = next(event for event in run if isinstance(event, Checkpoint) and event.step == 3)
    kept = checkpoint.path.rename(tmp_path / "kept.safetensors")
    whole = finish(run)
    with_memory(not before)
    events: list[object] = []
    resumed = finish(train(base, photos[:4], config, Run(tmp_path, resume_from=kept)), events)
    assert [event.index for event in events if isinstance(event, Step)] == [4, 5, 6]
    assert not [event for event in events if isinstance(event, Phase) and "start" in event.name]
    assert resumed.final_loss == pytest.approx(whole.final_loss, rel=0.05)
    assert resumed.sha256 != whole.sha256

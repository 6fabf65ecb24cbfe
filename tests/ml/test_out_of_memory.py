"""A training whose gradients do not fit into memory goes on with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.ml.families import only_sd15
from tests.ml.runs import finish, lora_config
from worker.ml.models import Base
from worker.ml.phases import Phase
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, Step, train

CONFIG = lora_config(steps=4, rank=4, learning_rate=5e-3, resolution=32, batch_size=2)
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
UNDER_ANOTHER_NAME = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def denoiser_of(base: Base) -> torch.nn.Module:
    return base.denoiser


@contextmanager
def failing(base: Base, error: Exception, *, at_step: int, times: int = 1) -> Iterator[None]:
    """Raise the error in the middle of the backward pass of a step, counted from 1, this many times."""
    backwards, raised = 0, 0

    def fail(*_: object) -> None:
        nonlocal backwards, raised
        backwards += 1
        if backwards >= at_step and raised < times:
            raised += 1
            raise error

    layers = [layer for layer in denoiser_of(base).modules() if isinstance(layer, torch.nn.Linear)]
    hook = layers[len(layers) // 2].register_full_backward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("family", "error", "at_step"),
    [("sd15", OUT_OF_MEMORY, 3), ("flux", UNDER_ANOTHER_NAME, 1)],
    ids=["torch's own", "another library's"],
    indirect=["family"],
)
def test_the_step_is_repeated_with_checkpointing_and_gives_the_same_lora(
    base: Base, photos: list[Photo], tmp_path: Path, error: Exception, at_step: int
) -> None:
    """Sizes are trained in turn: the first step is not the largest."""
    plain = finish(train(base, photos[:2], CONFIG, Run(tmp_path)))
    plain_bytes = plain.path.read_bytes()
    checkpointing: list[bool] = []
    events: list[object] = []

    def note(denoiser: torch.nn.Module, *_: object) -> None:
        if torch.is_grad_enabled():
            checkpointing.append(denoiser.is_gradient_checkpointing)

    watch = denoiser_of(base).register_forward_hook(note)
    try:
        with failing(base, error, at_step=at_step):
            spared = finish(train(base, photos[:2], CONFIG, Run(tmp_path)), events)
    finally:
        watch.remove()
    assert spared.path.read_bytes() == plain_bytes
    assert spared.memory_plan == f"{plain.memory_plan} with gradient checkpointing"
    assert checkpointing == [False] * at_step + [True] * (CONFIG.steps - at_step + 1)
    said = [event.name for event in events if isinstance(event, Phase) and "out of memory" in event.name]
    assert said == ["out of memory: training continues with gradient checkpointing, at about two thirds of the speed"]
    assert [event.index for event in events if isinstance(event, Step)] == list(range(1, CONFIG.steps + 1))
    assert not denoiser_of(base).is_gradient_checkpointing, "the base is left as it was"


@pytest.mark.parametrize(
    ("family", "error"),
    [("sd15", UNDER_ANOTHER_NAME), ("flux", OUT_OF_MEMORY)],
    indirect=["family"],
    ids=["sd15", "flux"],
)
def test_a_second_time_it_is_an_error(base: Base, photos: list[Photo], tmp_path: Path, error: Exception) -> None:
    with failing(base, error, at_step=2, times=2), pytest.raises(type(error), match=str(error)[:20]):
        list(train(base, photos[:2], CONFIG, Run(tmp_path)))
    assert not denoiser_of(base).is_gradient_checkpointing


@only_sd15
def test_any_other_error_is_not_met(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with failing(base, error, at_step=1), pytest.raises(RuntimeError, match="mat1"):
        list(train(base, photos[:2], CONFIG, Run(tmp_path)))

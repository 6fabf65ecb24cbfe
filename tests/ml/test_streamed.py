"""A denoiser whose blocks are on the device one after the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ml.families import only_flux
from tests.ml.runs import pictures
from worker.ml import models
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.memory import Plan
from worker.ml.models import Base
from worker.ml.quantise.forms import take_forms
from worker.ml.streamed import AT_ONCE, Streamed
from worker.ml.train.memory import trainable_forms
from worker.ml.train.train_lora import TrainedLora

REQUEST = PictureRequest("a photo", negative_prompt=None, width=64, height=64, steps=2, guidance=2.0, seed=5)


@pytest.fixture
def streamed(tiny_base: Path, device_of_its_own: Callable[[int], None]) -> Base:
    """A base of which nothing fits, and of which nothing is quantised."""
    device_of_its_own(0)
    return models.load(tiny_base, "cpu", forms=("streamed plain",))


def test_a_streamed_denoiser_draws_the_same_picture(base: Base, streamed: Base, trained: TrainedLora) -> None:
    for request in (REQUEST, replace(REQUEST, loras=(LoraUse(trained.path, 0.7),))):
        events = list(generate(streamed, request))
        (plan,) = [event for event in events if isinstance(event, Plan)]
        denoiser = base.family.denoiser
        assert plan.describe("here").startswith(f"streamed plain {denoiser}, offloaded, here: may not fit: needs ")
        for ours, theirs in zip(pictures(events), pictures(generate(base, request)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.nn.Module], list[int]]:
    """The blocks in the order of their copies, and how many of them were on the device after each."""
    blocks: list[torch.nn.Module] = []
    counts: list[int] = []
    alive: list[weakref.ref[Any]] = []
    copy = Streamed._copied

    def count(self: Streamed, block: torch.nn.Module, device: torch.device) -> list[torch.Tensor]:
        copies = copy(self, block, device)
        blocks.append(block)
        alive.append(weakref.ref(copies[0].untyped_storage()))
        counts.append(sum(there() is not None for there in alive))
        return copies

    monkeypatch.setattr(Streamed, "_copied", count)
    return blocks, counts


@only_flux
def test_a_block_is_copied_once_a_step_and_at_most_two_are_there(
    streamed: Base, copied: tuple[list[torch.nn.Module], list[int]]
) -> None:
    blocks, counts = copied
    drawing = generate(streamed, replace(REQUEST, steps=3))
    assert len(pictures(drawing)) == 1
    of_the_transformer = [*streamed.denoiser.transformer_blocks, *streamed.denoiser.single_transformer_blocks]
    assert len(of_the_transformer) > AT_ONCE
    steps = [*of_the_transformer * 3, of_the_transformer[0]]  # the first is on its way for a step that does not come
    assert blocks == steps
    assert max(counts) == AT_ONCE


@only_flux
def test_what_is_streamed_leaves_the_device_and_copies_nothing_back(streamed: Base) -> None:
    places = {name: weights.data_ptr() for name, weights in streamed.denoiser.named_parameters()}
    pictures(generate(streamed, REQUEST))
    assert {name: weights.data_ptr() for name, weights in streamed.denoiser.named_parameters()} == places
    assert not any(block._forward_pre_hooks for block in streamed.denoiser.modules())


@only_flux
def test_a_drawing_that_fails_within_a_block_leaves_the_weights_where_they_were(streamed: Base, base: Base) -> None:
    def fail(*_: object) -> None:
        raise KeyError("of the test")

    hook = streamed.denoiser.single_transformer_blocks[0].attn.register_forward_hook(fail)
    with pytest.raises(KeyError):
        pictures(generate(streamed, REQUEST))
    hook.remove()
    np.testing.assert_array_equal(pictures(generate(streamed, REQUEST)), pictures(generate(base, REQUEST)))


def test_the_size_on_the_device_is_known_before_a_form_is_used(
    tiny_base: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(0)
    base = models.load(tiny_base, "cpu")
    part = base.family.denoiser
    for form in ("streamed plain", "streamed int8"):
        size, _ = base.denoiser_bytes(form)
        base.use(part, form)
        assert base.part_bytes(part) == size


@only_flux
def test_a_quantised_denoiser_is_streamed_without_making_it_twice_and_is_whole_for_a_training(
    tiny_base: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(0)
    base = models.load(tiny_base, "cpu", forms=("int8", "streamed int8"))
    drawn = []
    for form in ("int8", "streamed int8"):
        base.offered["transformer"] = [form]
        events = list(take_forms(base, {"transformer": form}))
        assert bool(events) == (form == "int8")
        drawn.append(pictures(generate(base, REQUEST)))
    np.testing.assert_array_equal(*drawn)
    base.offered["transformer"] = ["int8", "streamed int8"]
    assert trainable_forms(base) == ["int8"]

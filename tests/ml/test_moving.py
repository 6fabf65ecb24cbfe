"""Parts that take turns on the device: what is moved, what is not copied, and what stays the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.ml.runs import finish, lora_config, pictures
from worker.ml import models
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.families import lora as lora_families
from worker.ml.masters import Masters
from worker.ml.memory import GIB, USABLE_SHARE, Plan
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, Step, TrainedLora, train

REQUEST = PictureRequest("a photo", negative_prompt=None, width=32, height=32, steps=2, guidance=2.0, seed=5)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the copies to the device, by the part's class."""
    counted: Counter[str] = Counter()
    to_device = Masters.to_device

    def count(masters: Masters, device: torch.device) -> None:
        if not masters.on_device:
            counted[type(masters._module).__name__] += 1
        to_device(masters, device)

    monkeypatch.setattr(Masters, "to_device", count)
    return counted


@pytest.fixture
def offloaded(tiny_base: Path, device_of_its_own: Callable[[int], None]) -> Base:
    """A base whose parts take turns, because no memory is free."""
    device_of_its_own(0)
    return models.load(tiny_base, "cpu", forms=("plain",))


def test_each_part_is_copied_to_the_device_once_however_many_pictures_are_drawn(
    offloaded: Base, copied: Counter[str]
) -> None:
    assert len(pictures(generate(offloaded, replace(REQUEST, num_images=3)))) == 3
    assert set(copied.values()) == {1}
    assert len(copied) == len(offloaded.family.modules(offloaded.parts))


def test_what_stays_on_the_device_is_not_copied_for_the_next_job(
    offloaded: Base, device_of_its_own: Callable[[int], None], copied: Counter[str]
) -> None:
    device_of_its_own(2**40)
    for _ in range(2):
        pictures(generate(offloaded, REQUEST))
    assert set(copied.values()) == {1}


def test_what_a_base_has_on_the_device_is_free_for_its_next_job(
    offloaded: Base, device_of_its_own: Callable[[int], None]
) -> None:
    def plan() -> Plan:
        (found,) = [event for event in generate(offloaded, REQUEST) if isinstance(event, Plan)]
        return found

    device_of_its_own(2**40)
    first = plan()
    weights = sum(offloaded.part_bytes(name) for name in offloaded.family.modules(offloaded.parts))
    enough = math.ceil(first.needed_bytes / USABLE_SHARE)
    device_of_its_own(enough - weights)
    second = plan()
    assert second.full
    assert second.free_bytes == enough


def test_leaving_the_device_copies_nothing(offloaded: Base) -> None:
    """The masters are the weights as they were mapped from the file, before and after."""
    places = {name: weights.data_ptr() for name, weights in offloaded.denoiser.named_parameters()}
    pictures(generate(offloaded, REQUEST))
    offloaded.place(offloaded.family.denoiser)
    assert not any(w.data_ptr() == places[name] for name, w in offloaded.denoiser.named_parameters())
    offloaded.to_host()
    assert {name: w.data_ptr() for name, w in offloaded.denoiser.named_parameters()} == places
    assert offloaded.anonymous_bytes < 2000  # buffers that are in no file: the positions of each CLIP


def test_parts_that_take_turns_draw_the_same_picture(base: Base, offloaded: Base, trained: TrainedLora) -> None:
    for request in (REQUEST, replace(REQUEST, loras=(LoraUse(trained.path),))):
        events = list(generate(offloaded, request))
        (plan,) = [event for event in events if isinstance(event, Plan)]
        assert plan.describe("here").startswith("offloaded, here: may not fit: needs ")
        for ours, theirs in zip(pictures(events), pictures(generate(base, request)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_plan_of_a_drawing_counts_its_loras(
    offloaded: Base, trained: TrainedLora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tiny base, encoding needs most memory, so more is claimed for the denoiser."""
    monkeypatch.setattr(type(offloaded.family), "working_bytes", lambda *_, **__: {offloaded.family.denoiser: GIB})

    def needed(*loras: LoraUse) -> int:
        drawing = generate(offloaded, replace(REQUEST, loras=loras))
        return next(event for event in drawing if isinstance(event, Plan)).needed_bytes

    lora, layers = LoraUse(trained.path), lora_families.load(trained.path, offloaded.family.name)
    size = sum(weights.nbytes for pair in layers.values() for weights in pair)
    assert needed(lora) - needed() == needed(lora, lora) - needed(lora) == size


def test_parts_that_take_turns_train_the_same_lora(
    base: Base, offloaded: Base, photos: list[Photo], tmp_path: Path
) -> None:
    config = lora_config(steps=3, rank=4, learning_rate=1e-3, resolution=32, batch_size=2)
    hashes = set()
    for name, one in (("turns", offloaded), ("full", base)):
        (tmp_path / name).mkdir()
        hashes.add(finish(train(one, photos[:2], config, Run(tmp_path / name))).sha256)
    assert len(hashes) == 1


def test_a_training_has_one_part_on_the_device_even_after_a_drawing_that_left_all_there(
    offloaded: Base, device_of_its_own: Callable[[int], None], photos: list[Photo], tmp_path: Path
) -> None:
    device_of_its_own(2**40)
    pictures(generate(offloaded, REQUEST))
    there = [{name for name, part in offloaded._parts.items() if part.on_device}]
    for event in train(offloaded, photos[:2], lora_config(steps=1, rank=4, resolution=32), Run(tmp_path)):
        if isinstance(event, Step):
            there.append({name for name, part in offloaded._parts.items() if part.on_device})
    assert there == [set(offloaded._parts), {offloaded.family.denoiser}]


def test_other_weights_are_really_used(offloaded: Base) -> None:
    """Were a part's weights not swapped by moving it, the forward pass would read stale ones."""
    (before,) = pictures(generate(offloaded, REQUEST))
    offloaded.to_host()
    for weights in offloaded._parts[offloaded.family.denoiser].tensors:
        weights.mul_(1.5)
    (after,) = pictures(generate(offloaded, REQUEST))
    assert np.abs(before.astype(int) - after).max() > 0


def test_a_part_that_does_not_fit_leaves_nothing_on_the_device() -> None:
    class SecondCopyFails(TorchFunctionMode):
        copies = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.to:
                self.copies += 1
                if self.copies == 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return func(*args, **kwargs or {})

    module = torch.nn.Linear(4, 4)
    masters = Masters(module)
    with SecondCopyFails(), pytest.raises(torch.OutOfMemoryError):
        masters.to_device(torch.device("cpu"))
    assert not masters.on_device
    places = [weights.data_ptr() for weights in module.parameters()]
    assert places == [master.data_ptr() for master in masters.tensors]


def test_tied_weights_stay_tied() -> None:
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 4)})
    module["b"].weight = module["a"].weight
    masters = Masters(module)
    masters.to_device(torch.device("cpu"))
    assert module["a"].weight is module["b"].weight
    masters.to_host()
    assert module["a"].weight.data_ptr() == module["b"].weight.data_ptr() == masters.tensors[0].data_ptr()

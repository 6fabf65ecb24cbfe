"""Text encoders in 8 and 4 bits: how close they are to plain ones, and when plans quantise them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten

from tests.ml.families import only_flux
from tests.ml.runs import finish, lora_config, pictures
from worker.ml import memory, models
from worker.ml.draw.generate import PictureRequest, generate
from worker.ml.memory import GIB, PLAIN, Plan
from worker.ml.models import Base
from worker.ml.phases import Phase, Underway
from worker.ml.protocol import Condition
from worker.ml.quantise.forms import ENCODER_BLOCKS, Forms
from worker.ml.quantise.linear import QuantisedLinear
from worker.ml.quantise.nf4 import has_bitsandbytes
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, Step, train

pytestmark = pytest.mark.skipif(not has_bitsandbytes(), reason="nf4 needs bitsandbytes (the gpu and dev extras)")
REQUEST = PictureRequest("a photo", negative_prompt=None, width=64, height=64, steps=1, guidance=2.0, seed=5)
CONFIG = lora_config(steps=2, rank=4, learning_rate=1e-3, resolution=64)
CLOSE = {"int8": 0.03, "nf4": 0.45}
"""How far the encoded prompt may be from the plain one, relative to its size: about twice what was measured."""

each_form = pytest.mark.parametrize("form", ["int8", "nf4"])


def encoder_of(base: Base) -> str:
    """The part that has forms."""
    (name,) = base.offered.keys() & base.family.encoders
    return name


def modules(base: Base) -> Mapping[str, torch.nn.Module]:
    return base.family.modules(base.parts)


def encoded(base: Base) -> torch.Tensor:
    condition: Condition = base.family.encode_prompts(base.parts, ["a photo of a person in a park"], base.device)
    tensors, _ = tree_flatten(list(vars(condition).values()))
    return torch.cat([tensor.float().flatten() for tensor in tensors])


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@each_form
def test_a_prompt_of_a_quantised_encoder_is_close_to_that_of_the_plain_one(
    base: Base, tiny_base: Path, form: str
) -> None:
    ours = models.load(tiny_base, "cpu")
    ours.use(encoder_of(ours), form)
    assert 0 < difference(encoded(ours), encoded(base)) < CLOSE[form]
    ours.use(encoder_of(ours), PLAIN)
    assert torch.equal(encoded(ours), encoded(base))


@only_flux
@each_form
def test_layers_that_are_kept_in_float32_beside_float16_compute_in_it(tiny_base: Path, form: str) -> None:
    """T5's output layers, whose results leave the range of float16."""
    base = models.load(tiny_base, "cpu", torch.float16)
    wide = base.parts.text_encoder_2.encoder.block[0].layer[-1].DenseReluDense
    with torch.no_grad():
        wide.wo.weight.mul_(1e6)
    plain = encoded(base)
    t5 = Forms(base.parts.text_encoder_2, ENCODER_BLOCKS)
    for _ in t5.quantise(form, torch.device("cpu"), lambda _: True):
        pass
    t5.use(form)
    assert isinstance(wide.wo, QuantisedLinear)
    assert plain.isfinite().all()
    assert difference(encoded(base), plain) < CLOSE[form]


@only_flux
def test_the_largest_encoder_is_quantised_and_of_it_the_blocks_alone(tiny_base: Path) -> None:
    base = models.load(tiny_base, "cpu", forms=("int8",))
    list(generate(base, REQUEST))
    largest = max(base.family.encoders, key=lambda name: sum(w.nbytes for w in modules(base)[name].parameters()))
    for name in base.family.encoders:
        layers = {layer for layer, one in modules(base)[name].named_modules() if isinstance(one, QuantisedLinear)}
        assert bool(layers) == (name == largest)
        assert all({"block", "layers"}.intersection(layer.split(".")) for layer in layers)


# -- plans


@only_flux
def test_parts_are_quantised_each_as_far_as_it_must(tiny_base: Path, device_of_its_own: Callable[[int], None]) -> None:
    device_of_its_own(2**40)
    base = models.load(tiny_base, "cpu")
    encoder, denoiser, encoders = encoder_of(base), base.family.denoiser, base.family.encoders
    besides = sum(base.part_bytes(name) for name in encoders if name != encoder) + GIB + memory.WORKSPACE_BYTES
    plain, int8 = (
        math.ceil((sum(base.bytes_in_form(encoder, form)) + besides) / memory.USABLE_SHARE)
        for form in ("plain", "int8")
    )
    found = []
    for free in (plain, plain - 1, int8 - 1):
        device_of_its_own(free)
        found.append(base.plan({encoder: GIB}))
    assert [plan.forms[encoder] for plan in found] == ["plain", "int8", "nf4"]
    assert {plan.forms[denoiser] for plan in found} == {"plain"}
    words = "nf4 text encoder, offloaded, here: needs 1.3 of 1.3 GiB free; unquantised, it would need 1.3"
    assert found[2].describe("here") == words


@only_flux
def test_a_drawing_and_a_training_quantise_what_does_not_fit_and_say_so(
    tiny_base: Path, device_of_its_own: Callable[[int], None], photos: list[Photo], tmp_path: Path
) -> None:
    device_of_its_own(2**40)
    base = models.load(tiny_base, "cpu")
    base.offered = {"transformer": [PLAIN], encoder_of(base): ["int8"]}
    events = list(generate(base, REQUEST))
    (plan,) = [event for event in events if isinstance(event, Plan)]
    assert plan.describe("here").startswith("int8 text encoder, full, here")
    assert Phase("quantising the text encoder to int8", stepwise=True) in events
    assert pictures(events)[0].shape == (64, 64, 3)

    said: list[object] = []
    trained = finish(train(base, photos[:1], replace(CONFIG, steps=1), Run(tmp_path)), said)
    assert trained.memory_plan.startswith("int8 text encoder, one part at a time, cpu, float32: needs ")
    assert not [event for event in said if isinstance(event, Underway)], "it was made for the drawing"


@only_flux
def test_a_training_resumes_where_the_captions_were_encoded_in_another_form(
    tiny_base: Path, base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    """A checkpoint belongs to a training in all forms of its parts."""
    events = train(base, photos[:1], CONFIG, Run(tmp_path, checkpoint_every_s=0))
    checkpoint = next(event for event in events if type(event).__name__ == "Checkpoint")
    events.close()
    other = models.load(tiny_base, "cpu")
    other.offered[encoder_of(other)] = ["nf4"]
    said: list[object] = []
    finish(train(other, photos[:1], CONFIG, Run(tmp_path, resume_from=checkpoint.path)), said)
    assert [event.index for event in said if isinstance(event, Step)] == [2]

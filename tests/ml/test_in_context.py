"""Reference pictures in the context of a base that reads them: drawn as in plain diffusers, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.ml import vanilla
from tests.ml.families import only_klein
from tests.ml.references import as_pil, reference
from tests.ml.runs import pictures
from tests.ml.test_guides import AddsConstant
from worker.ml import models
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.families.working_memory import autoencoder_bytes
from worker.ml.guides.registry import LoadedGuide, open_guide
from worker.ml.memory import GIB, Plan
from worker.ml.models import Base
from worker.ml.protocol import GuideUse, Inputs, Pixels
from worker.ml.train.train_lora import TrainedLora

pytestmark = only_klein
PROMPT = "a photo"
REQUEST = PictureRequest(PROMPT, negative_prompt=None, width=96, height=64, steps=3, guidance=3.5, seed=5)
SETTINGS = {"width": 96, "height": 64, "num_inference_steps": 3, "guidance_scale": 3.5}
ONE = (reference(120, 150),)
TWO = (reference(120, 150), reference(64, 512, seed=1))  # the second one as narrow as may be


@pytest.fixture
def guide(base: Base) -> LoadedGuide:
    return open_guide(None, base, "reference")


def guided(guide: LoadedGuide, references: tuple[Pixels, ...] = ONE, scale: float = 1.0) -> PictureRequest:
    return replace(REQUEST, guides=(GuideUse(guide, references, scale),))


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def plain(base: Base, references: tuple[Pixels, ...], **settings: Any) -> np.ndarray:
    return vanilla.draw(base.folder, PROMPT, seed=5, image=as_pil(references), **{**SETTINGS, **settings})


@pytest.mark.parametrize("references", [ONE, TWO], ids=["one", "two"])
def test_references_are_drawn_as_in_plain_diffusers(
    base: Base, guide: LoadedGuide, references: tuple[Pixels, ...]
) -> None:
    (ours,) = pictures(generate(base, guided(guide, references)))
    assert furthest(ours, plain(base, references)) == 0
    (without,) = pictures(generate(base, REQUEST))
    assert furthest(ours, without) > 5


def test_a_large_reference_is_read_smaller_as_in_plain_diffusers(distilled: Base, guide: LoadedGuide) -> None:
    large = (reference(1300, 850),)
    (ours,) = pictures(generate(distilled, replace(guided(guide, large), steps=1)))
    assert furthest(ours, plain(distilled, large, num_inference_steps=1)) == 0


def test_beside_a_lora_and_against_a_negative_prompt_too(base: Base, guide: LoadedGuide, trained: TrainedLora) -> None:
    request = replace(guided(guide, TWO), loras=(LoraUse(trained.path),), negative_prompt="a red wall")
    (ours,) = pictures(generate(base, request))
    theirs = plain(base, TWO, loras=[(trained.path, 1.0)], negative_prompt="a red wall")
    assert furthest(ours, theirs) == 0


def test_a_distilled_base_reads_them_too(family: str, distilled: Base) -> None:
    (ours,) = pictures(generate(distilled, guided(open_guide(None, distilled, "reference"))))
    assert furthest(ours, plain(distilled, ONE)) == 0


def test_in_bfloat16_too(base: Base) -> None:
    half = models.load(base.folder, "cpu", torch.bfloat16)
    smallest = replace(guided(open_guide(None, half, "reference"), TWO), width=32, height=32, steps=2)
    (ours,) = pictures(generate(half, smallest))
    settings = {"width": 32, "height": 32, "num_inference_steps": 2, "dtype": torch.bfloat16}
    assert furthest(ours, plain(base, TWO, **settings)) == 0


def test_in_float16_it_is_close_to_float32(base: Base, guide: LoadedGuide) -> None:
    half = models.load(base.folder, "cpu", torch.float16)
    (ours,) = pictures(generate(half, guided(open_guide(None, half, "reference"))))
    assert np.abs(ours.astype(int) - pictures(generate(base, guided(guide)))[0]).mean() < 2


def test_scale_0_is_bit_equal_to_no_reference(base: Base, guide: LoadedGuide) -> None:
    np.testing.assert_array_equal(*(pictures(generate(base, r)) for r in (guided(guide, scale=0.0), REQUEST)))


@pytest.mark.parametrize("scale", [0.6, -1.0, 2.0])
def test_a_scale_other_than_0_and_1_is_refused_with_what_to_do(base: Base, guide: LoadedGuide, scale: float) -> None:
    message = f"scale of reference pictures is {scale:g}, and klein bases read them or do not: use 1, or 0"
    with pytest.raises(BadInput, match=message):
        list(generate(base, guided(guide, scale=scale)))


class NotesInputs(AddsConstant):
    """Notes each evaluation and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Inputs] = []

    def change(self, state: float, inputs: Inputs, done: float) -> Inputs:
        self.inputs.append(inputs)
        return inputs


def test_a_seed_keeps_its_noise(base: Base, guide: LoadedGuide) -> None:
    notes = NotesInputs(), NotesInputs()
    pictures(generate(base, replace(REQUEST, guides=(GuideUse(notes[0], ONE),))))
    pictures(generate(base, replace(REQUEST, guides=(*guided(guide).guides, GuideUse(notes[1], ONE)))))
    assert torch.equal(notes[0].inputs[0].latents, notes[1].inputs[0].latents)
    assert [one.appended is None for one in (notes[0].inputs[0], notes[1].inputs[0])] == [True, False]


def test_a_window_leaves_references_out_of_other_steps(base: Base, guide: LoadedGuide) -> None:
    notes = NotesInputs()
    use = replace(guided(guide).guides[0], end=0.7)
    pictures(generate(base, replace(REQUEST, guides=(use, GuideUse(notes, ONE)))))
    assert [one.appended is None for one in notes.inputs] == [False] * 4 + [True] * 2  # two evaluations a step


def test_a_stopped_drawing_leaves_the_base_as_it_was_and_keeps_nothing_of_a_reference(
    base: Base, guide: LoadedGuide
) -> None:
    without = pictures(generate(base, REQUEST))
    drawing = generate(base, guided(guide))
    assert next(event for event in drawing if isinstance(event, Step))
    drawing.close()
    assert guide._encoded._last is None  # type: ignore[attr-defined]
    np.testing.assert_array_equal(pictures(generate(base, REQUEST)), without)


def test_references_are_encoded_once_a_request(base: Base, guide: LoadedGuide) -> None:
    seen: list[int] = []
    hook = base.parts.vae.encoder.register_forward_hook(lambda *_: seen.append(1))
    pictures(generate(base, replace(guided(guide, TWO), num_images=3)))
    hook.remove()
    assert len(seen) == 2


# -- memory


def test_parts_that_take_turns_draw_the_same_picture(
    base: Base, guide: LoadedGuide, device_of_its_own: Callable[[int], None]
) -> None:
    expected = pictures(generate(base, guided(guide, TWO)))
    device_of_its_own(0)
    offloaded = models.load(base.folder, "cpu", forms=("plain",))
    there: list[tuple[str, bool, bool]] = []

    def note(who: str) -> Callable[..., None]:
        parts = offloaded._parts["vae"], offloaded._parts["transformer"]
        return lambda *_, **__: there.append((who, *(part.on_device for part in parts)))

    offloaded.parts.vae.encoder.register_forward_hook(note("encoder"))
    offloaded.denoiser.register_forward_hook(note("denoiser"))
    other = open_guide(None, offloaded, "reference")
    np.testing.assert_array_equal(pictures(generate(offloaded, guided(other, TWO))), expected)
    assert set(there) == {("encoder", True, False), ("denoiser", False, True)}


def test_the_plan_counts_the_tokens_of_all_references_and_what_encoding_the_largest_needs(
    base: Base, guide: LoadedGuide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tiny base, encoding the prompt needs most memory, so more is claimed for the denoiser."""
    a_token = 22 * base.denoiser.inner_dim * base.denoiser.dtype.itemsize
    monkeypatch.setattr(type(base.family), "working_bytes", lambda *_, **__: {base.family.denoiser: GIB})

    def needed(request: PictureRequest) -> int:
        return next(event.needed_bytes for event in generate(base, request) if isinstance(event, Plan))

    def needs(references: tuple[Pixels, ...]) -> int:
        return needed(guided(guide, references)) - needed(REQUEST)

    encoding = base.part_bytes("vae") + autoencoder_bytes(base.parts.vae, 112, 144)
    assert needs(ONE) == encoding > 7 * 9 * a_token
    many = ONE * math.ceil(encoding / (7 * 9 * a_token) + 1)
    assert needs(many) == len(many) * 7 * 9 * a_token


# -- bad input


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ((reference(1, 1),), "reference 1 is 1 x 1 pixels: each side must be at least 64"),
        ((*ONE, reference(520, 64)), "reference 2 is 64 x 520 pixels: one side must be at most 8 times the other"),
        ((), "at least one picture"),
    ],
)
def test_a_reference_that_shows_too_little_is_refused(
    base: Base, guide: LoadedGuide, references: tuple[Pixels, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        list(generate(base, guided(guide, references)))


def test_a_grey_reference_is_drawn_as_in_plain_diffusers(base: Base, guide: LoadedGuide) -> None:
    grey = (np.repeat(ONE[0][:, :, :1], 3, axis=2),)
    (ours,) = pictures(generate(base, guided(guide, grey)))
    assert furthest(ours, plain(base, grey)) == 0


def test_another_capability_is_not_built_in(base: Base) -> None:
    with pytest.raises(ModelUnreadable, match="has no control:pose built in: name a guide"):
        open_guide(None, base, "control:pose")

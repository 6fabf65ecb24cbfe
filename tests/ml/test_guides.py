"""A guide of the tests' own, which adds a constant to the denoiser's input: what the protocol of guides promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ml.families import only_flux
from tests.ml.runs import pictures
from worker.ml import models
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import BadInput
from worker.ml.memory import Plan
from worker.ml.models import Base
from worker.ml.protocol import Appended, Grid, GuideUse, Inputs, Sampler, Sampling, Side
from worker.ml.train.train_lora import TrainedLora

REQUEST = PictureRequest(
    "a photo", negative_prompt=None, width=32, height=32, steps=4, guidance=2.0, seed=5, num_images=2
)


@dataclass
class AddsConstant:
    """Adds `scale` times the mean of its pictures to the latents of every evaluation."""

    attached: int = 0
    """How often it is attached now."""
    prepared: list[tuple[Grid, float]] = field(default_factory=list)
    """For each picture drawn: the grid, and the first number of its generator."""
    seen: list[tuple[float, tuple[Side, ...]]] = field(default_factory=list)
    """For each evaluation: the share of steps done, and its rows."""
    needs: int = 0
    """Bytes on the device."""
    first_steps: int | None = None
    """It ends each picture after so many steps."""
    append: Callable[[Inputs], Appended] | None = None

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        return self.needs

    def sampler(self, sampler: Sampler, sampling: Sampling) -> Sampler:
        if self.first_steps is not None:
            sampler.scheduler.timesteps = sampler.scheduler.timesteps[: self.first_steps]
        return sampler

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        self.attached += 1
        try:
            yield
        finally:
            self.attached -= 1

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> float:
        self.prepared.append((grid, float(torch.rand((), generator=generator))))
        return use.scale * float(np.mean(use.pictures)) / 255

    def change(self, state: float, inputs: Inputs, done: float) -> Inputs:
        assert self.attached == 1
        self.seen.append((done, inputs.sides))
        if self.append is not None:
            inputs = replace(inputs, appended=self.append(inputs))
        return replace(inputs, latents=inputs.latents + state)


@pytest.fixture
def guide() -> AddsConstant:
    return AddsConstant()


def guided(guide: AddsConstant, scale: float) -> PictureRequest:
    grey = np.full((64, 64, 3), 128, np.uint8)
    return replace(REQUEST, guides=(GuideUse(guide, (grey,), scale),))


def test_a_guide_changes_the_picture_the_more_the_larger_its_scale(base: Base, guide: AddsConstant) -> None:
    plain, little, much = (
        pictures(generate(base, request))[0].astype(int)
        for request in (REQUEST, guided(guide, 0.2), guided(guide, 1.0))
    )
    assert 0 < np.abs(little - plain).mean() < np.abs(much - plain).mean()


def test_a_guide_at_scale_0_is_not_attached_and_the_picture_is_bit_equal(base: Base, guide: AddsConstant) -> None:
    with_it, without = (pictures(generate(base, request)) for request in (guided(guide, 0.0), REQUEST))
    np.testing.assert_array_equal(with_it, without)
    assert guide == AddsConstant()


def test_a_guide_is_prepared_once_a_picture_and_sees_every_evaluation(base: Base, guide: AddsConstant) -> None:
    steps = [event for event in generate(base, guided(guide, 0.5)) if isinstance(event, Step)]
    token_px = base.family.token_px(base.parts)
    assert [grid for grid, _ in guide.prepared] == [(32 // token_px, 32 // token_px)] * 2
    assert len({drawn for _, drawn in guide.prepared}) == 2, "each picture's seed reaches the guide"
    calls = [*base.family.evaluations(base.parts, REQUEST.guidance, 0.0)]
    assert [sides for _, sides in guide.seen] == calls * len(steps)
    shares = [done for done, _ in guide.seen[:: len(calls)]]
    assert shares[: len(shares) // 2] == shares[len(shares) // 2 :] == sorted(set(shares))
    assert shares[0] == 0
    assert max(shares) < 1


def test_a_guides_scale_must_be_a_finite_number(base: Base, guide: AddsConstant) -> None:
    with pytest.raises(BadInput, match="guides"):
        list(generate(base, guided(guide, float("nan"))))
    assert guide == AddsConstant()


def test_a_guide_combines_with_a_lora(base: Base, guide: AddsConstant, trained: TrainedLora) -> None:
    with_lora = replace(REQUEST, loras=(LoraUse(trained.path),))
    with_both = replace(guided(guide, 0.5), loras=(LoraUse(trained.path),))
    lora, both, alone = (
        pictures(generate(base, request))[0].astype(int) for request in (with_lora, with_both, guided(guide, 0.5))
    )
    assert min(np.abs(both - lora).mean(), np.abs(both - alone).mean()) > 0
    assert guide.attached == 0


class CountsPictures(AddsConstant):
    """Its state is the number of the picture that it was prepared for."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[float] = []

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> float:
        super().prepare(base, use, grid, generator)
        return float(len(self.prepared))

    def change(self, state: float, inputs: Inputs, done: float) -> Inputs:
        self.states.append(state)
        return super().change(state, inputs, done)


def test_each_picture_is_drawn_with_its_own_state(base: Base) -> None:
    guide = CountsPictures()
    pictures(generate(base, guided(guide, 0.5)))
    evaluations = len(guide.states) // 2
    assert guide.states == [1.0] * evaluations + [2.0] * evaluations


def test_what_a_guide_needs_on_the_device_is_part_of_the_plan(base: Base, guide: AddsConstant) -> None:
    def planned(request: PictureRequest) -> int:
        return next(event.needed_bytes for event in generate(base, request) if isinstance(event, Plan))

    without = planned(guided(guide, 1.0))
    guide.needs = 3 * 2**30
    assert planned(guided(guide, 1.0)) > without + 2.5 * 2**30
    assert planned(guided(guide, 0.0)) == without


@pytest.mark.parametrize(
    ("window", "steps", "taken"),
    [
        ((0.0, 0.5), 4, [0, 1]),
        ((0.25, 0.75), 4, [1, 2]),
        ((0.25, 0.75), 3, [1]),  # of the others, only a part is inside
        ((0.0, 0.3), 4, [0]),
        ((0.6, 1.0), 4, [3]),
        ((0.0, 1.0), 1, [0]),
    ],
)
@only_flux
def test_a_guide_changes_the_steps_that_are_wholly_inside_its_window(
    base: Base, guide: AddsConstant, window: tuple[float, float], steps: int, taken: list[int]
) -> None:
    asked = replace(guided(guide, 0.5), steps=steps, num_images=1)
    start, end = window
    pictures(generate(base, replace(asked, guides=(replace(asked.guides[0], start=start, end=end),))))
    assert [done for done, _ in guide.seen] == [step / steps for step in taken]


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ((0.5, 0.5), "its start must be"),
        ((0.7, 0.2), "from 0.7 to 0.2: its start must be"),
        ((-0.1, 0.5), "its start must be"),
        ((0.5, 1.5), "its end at most 1"),
        ((0.0, float("nan")), "its start must be"),
        ((0.3, 0.45), "none of the 4 steps is inside"),
    ],
)
@only_flux
def test_an_empty_window_is_refused_before_anything_is_done(
    base: Base, guide: AddsConstant, window: tuple[float, float], said: str
) -> None:
    asked = guided(guide, 0.5)
    start, end = window
    with pytest.raises(BadInput, match=said):
        next(generate(base, replace(asked, guides=(replace(asked.guides[0], start=start, end=end),))))


def test_a_guide_may_change_the_sampler(base: Base, guide: AddsConstant) -> None:
    guide.first_steps = 2
    steps = [event for event in generate(base, guided(guide, 0.5)) if isinstance(event, Step)]
    assert [(step.index, step.total) for step in steps] == [(i, 4) for i in (1, 2, 3, 4)]


@only_flux
def test_a_transformer_reads_appended_tokens_and_answers_for_the_picture_alone(base: Base, guide: AddsConstant) -> None:
    def reference(inputs: Inputs) -> Appended:
        noise = torch.randn((1, 5, inputs.latents.shape[2]), generator=torch.Generator().manual_seed(1))
        positions = torch.stack([torch.ones(5), torch.zeros(5), torch.arange(5.0)], dim=1)
        return Appended(noise.expand(len(inputs.latents), -1, -1), positions)

    plain = pictures(generate(base, guided(guide, 1e-9)))
    guide.append = reference
    with_reference = pictures(generate(base, guided(guide, 1e-9)))
    assert np.shape(with_reference) == np.shape(plain)
    assert np.abs(np.subtract(with_reference, plain, dtype=int)).max() > 0

    batch = inputs_for(base)
    appended = reference(batch)
    ids = base.parts._prepare_latent_image_ids(1, *batch.grid, base.device, torch.float32)
    with torch.no_grad():
        ours = base.family.predict(base.parts, replace(batch, appended=appended))
        (theirs,) = base.denoiser(
            hidden_states=torch.cat([batch.latents, appended.tokens], dim=1),
            timestep=batch.time,
            guidance=torch.full((1,), batch.guidance),
            pooled_projections=batch.condition.pooled,
            encoder_hidden_states=batch.condition.tokens,
            txt_ids=torch.zeros(batch.condition.tokens.shape[1], 3),
            img_ids=torch.cat([ids, appended.ids]),
            return_dict=False,
        )
    assert torch.equal(ours, theirs[:, : batch.latents.shape[1]])


def inputs_for(base: Base) -> Inputs:
    """One row at half of the schedule, of noise alone."""
    condition = base.family.encode_prompts(base.parts, ["a photo"], base.device)
    latents = torch.randn((1, 16, base.denoiser.config.in_channels), generator=torch.Generator().manual_seed(0))
    return Inputs(latents, torch.tensor([0.5]), condition, (4, 4), 3.5, ("wanted",))


@pytest.mark.parametrize("steps", [1, 5])
def test_a_guided_drawing_stopped_between_steps_detaches_the_guide(base: Base, guide: AddsConstant, steps: int) -> None:
    plain = pictures(generate(base, REQUEST))
    drawing = generate(base, guided(guide, 0.5))
    for event in drawing:
        steps -= isinstance(event, Step)
        if steps == 0:
            assert guide.attached == 1
            break
    drawing.close()
    assert guide.attached == 0
    np.testing.assert_array_equal(pictures(generate(base, REQUEST)), plain)


class EncodesItsPicture(AddsConstant):
    """Reads the autoencoder, as control networks and reference pictures do, and notes where the denoiser then is."""

    def __init__(self) -> None:
        super().__init__()
        self.on_device: list[bool] = []

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        def note(*_: object) -> None:
            self.on_device.append(base._parts[base.family.denoiser].on_device)

        hook = base.denoiser.register_forward_hook(note)
        try:
            with super().attach(base):
                yield
        finally:
            hook.remove()

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> float:
        base.place(base.family.autoencoder)
        signal = torch.from_numpy(use.pictures[0].copy()).permute(2, 0, 1)[None] / 127.5 - 1
        return use.scale * float(base.family.encode_picture(base.parts, signal).mean())


def test_a_guide_may_use_another_part_of_a_base_whose_parts_take_turns(
    tiny_base: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(0)
    base, guide = models.load(tiny_base, "cpu", forms=("plain",)), EncodesItsPicture()
    assert len(pictures(generate(base, guided(guide, 1.0)))) == 2
    assert set(guide.on_device) == {True}

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.ml.families import only_sd15
from worker.ml.draw.generate import LoraUse, Picture, PictureRequest, Resolved, Step, generate, resolve
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.models import Base
from worker.ml.phases import Phase

REQUEST = PictureRequest("a photo", negative_prompt=None, width=48, height=32, steps=2, guidance=1.0, seed=0)


def test_resolved_settings_come_first_then_phases_steps_and_pictures(base: Base) -> None:
    events = list(generate(base, replace(REQUEST, num_images=2)))
    assert isinstance(events[0], Resolved)
    assert [event.name for event in events if isinstance(event, Phase)] == [
        "reading the prompt",
        "drawing",
        "decoding",
    ]
    steps = [(event.index, event.total) for event in events if isinstance(event, Step)]
    assert steps == [(i, len(steps)) for i in range(1, len(steps) + 1)]
    assert [(event.index, event.seed) for event in events if isinstance(event, Picture)] == [(0, 0), (1, 1)]
    assert all(event.pixels.shape == (32, 48, 3) for event in events if isinstance(event, Picture))


def test_no_step_asks_diffusers_for_the_denoisers_dtype(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks through all modules for it: with a LoRA attached, that took a tenth of a step's time."""
    asked = 0
    dtype = type(base.denoiser).dtype

    def ask(denoiser: object) -> object:
        nonlocal asked
        asked += 1
        return dtype.fget(denoiser)

    monkeypatch.setattr(type(base.denoiser), "dtype", property(ask))
    counts = []
    for steps in (2, 6):
        asked = 0
        list(generate(base, replace(REQUEST, steps=steps)))
        counts.append(asked)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("family", "steps", "guidance"),
    [("flux", 28, 3.5), ("klein", 50, 4.0), ("sd15", 30, 7.5), ("sdxl", 30, 5.0), ("z-image", 50, 4.0)],
    indirect=["family"],
)
def test_a_base_defaults_to_its_own_size_and_published_settings(base: Base, steps: int, guidance: float) -> None:
    unset = replace(REQUEST, width=None, height=None, steps=None, guidance=None)
    assert resolve(base, unset) == Resolved(64, 64, steps, guidance, negative_prompt_used=False, prompt_cut_by=())


def test_a_flux_base_without_guidance_embedding_has_the_defaults_of_schnell(unguided: Base) -> None:
    resolved = resolve(unguided, replace(REQUEST, steps=None, guidance=None))
    assert (resolved.steps, resolved.guidance) == (4, 0.0)


def test_a_distilled_klein_base_draws_in_four_steps_without_guidance(distilled: Base) -> None:
    resolved = resolve(distilled, replace(REQUEST, steps=None, guidance=None))
    assert (resolved.steps, resolved.guidance) == (4, 1.0)
    assert not resolve(distilled, replace(REQUEST, negative_prompt="blurred", guidance=4.0)).negative_prompt_used


def test_sizes_are_rounded_down_to_what_the_base_can_draw_and_reported(base: Base) -> None:
    resolved = resolve(base, replace(REQUEST, width=71, height=64))
    assert (resolved.width, resolved.height) == (64, 64)


@pytest.mark.parametrize(("family", "used"), [("flux", False), ("klein", True), ("sd15", True)], indirect=["family"])
def test_the_use_of_a_negative_prompt_is_reported(base: Base, used: bool) -> None:
    blurred = replace(REQUEST, negative_prompt="blurred", guidance=2.0)
    assert resolve(base, blurred).negative_prompt_used == used
    assert not resolve(base, replace(blurred, guidance=1.0)).negative_prompt_used
    assert not resolve(base, replace(blurred, negative_prompt=None)).negative_prompt_used


def test_a_flux_base_without_guidance_embedding_uses_a_negative_prompt(unguided: Base) -> None:
    blurred = replace(REQUEST, negative_prompt="blurred", guidance=3.0)
    assert resolve(unguided, blurred).negative_prompt_used
    assert not resolve(unguided, replace(blurred, guidance=0.0)).negative_prompt_used


@only_sd15
def test_a_scheduler_that_needs_more_evaluations_counts_them_from_the_first_step(base: Base) -> None:
    """PNDM evaluates its first step twice: a bar that counted requested steps would overrun."""
    steps = [event for event in generate(base, replace(REQUEST, steps=4)) if isinstance(event, Step)]
    assert [(step.index, step.total) for step in steps] == [(i, 5) for i in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("family", "prompt", "cut_by"),
    [
        ("flux", "a man", ()),
        ("flux", "a " * 60, ("t5",)),
        ("flux", "a " * 76, ("clip", "t5")),
        ("klein", "a man", ()),
        ("klein", "a " * 60, ("qwen3",)),
        ("sd15", "a " * 75, ()),
        ("sd15", "a " * 76, ("clip",)),
        ("sdxl", "a " * 76, ("clip", "clip_2")),
        ("qwen-image", "a " * 50, ()),
        ("qwen-image", "a " * 60, ("qwen2.5-vl",)),
        ("z-image", "a man", ()),
        ("z-image", "a " * 60, ("qwen3",)),
    ],
    indirect=["family"],
)
def test_a_cut_prompt_is_reported(base: Base, prompt: str, cut_by: tuple[str, ...]) -> None:
    assert resolve(base, replace(REQUEST, prompt=prompt)).prompt_cut_by == cut_by


@pytest.mark.parametrize("change", [{"width": 7}, {"steps": 0}, {"num_images": 0}, {"guidance": float("nan")}], ids=str)
def test_a_request_that_cannot_be_drawn_is_refused(base: Base, change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        next(generate(base, replace(REQUEST, **change)))


def test_a_missing_lora_is_named_by_its_file_alone(base: Base, tmp_path: Path) -> None:
    request = replace(REQUEST, loras=(LoraUse(tmp_path / "gone.safetensors"),))
    with pytest.raises(ModelUnreadable, match=r"^gone\.safetensors ") as refused:
        list(generate(base, request))
    assert str(tmp_path) not in str(refused.value)


def test_prompts_do_not_reach_the_log(
    base: Base, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """diffusers warns with the text that an encoder cuts off."""
    list(generate(base, replace(REQUEST, prompt="secret " * 100)))
    out, err = capfd.readouterr()
    assert "secret" not in out + err + caplog.text

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worker.ml.base_models import Base
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.generate import LoraUse, Picture, PictureRequest, Resolved, Step, generate, resolve
from worker.ml.phases import Phase

REQUEST = PictureRequest("a photo", negative_prompt=None, width=48, height=32, steps=2, guidance=1.0, seed=0)


def test_what_was_resolved_comes_first_then_phases_steps_and_pictures(base: Base) -> None:
    events = list(generate(base, replace(REQUEST, num_images=2)))
    assert isinstance(events[0], Resolved)
    assert [event.name for event in events if isinstance(event, Phase)] == [
        "reading the prompt",
        *["drawing", "decoding"] * 2,
    ]
    assert [(event.index, event.total) for event in events if isinstance(event, Step)] == [(i, 4) for i in (1, 2, 3, 4)]
    assert [(event.index, event.seed) for event in events if isinstance(event, Picture)] == [(0, 0), (1, 1)]
    assert all(event.pixels.shape == (32, 48, 3) for event in events if isinstance(event, Picture))


def test_a_guided_base_defaults_to_its_published_settings(base: Base) -> None:
    unsaid = replace(REQUEST, width=None, height=None, steps=None, guidance=None)
    assert resolve(base, unsaid) == Resolved(1024, 1024, 28, 3.5, negative_prompt_used=False, prompt_cut_by=())


def test_sizes_are_rounded_down_to_what_the_base_can_draw_and_said(base: Base) -> None:
    resolved = resolve(base, replace(REQUEST, width=79, height=64))
    assert (resolved.width, resolved.height) == (64, 64)


def test_a_negative_prompt_is_said_to_be_unused(base: Base) -> None:
    assert not resolve(base, replace(REQUEST, negative_prompt="blurred")).negative_prompt_used


@pytest.mark.parametrize(
    ("prompt", "cut_by"),
    [("a man", ()), ("a " * 60, ("t5",)), ("a " * 76, ("clip", "t5"))],
)
def test_a_cut_prompt_is_said(base: Base, prompt: str, cut_by: tuple[str, ...]) -> None:
    assert resolve(base, replace(REQUEST, prompt=prompt)).prompt_cut_by == cut_by


@pytest.mark.parametrize("change", [{"width": 8}, {"steps": 0}, {"num_images": 0}, {"guidance": float("nan")}], ids=str)
def test_what_cannot_be_drawn_is_refused(base: Base, change: dict[str, object]) -> None:
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

"""A trigger word beyond what an encoder reads is put first, in captions and prompts, and cut captions are reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.ml.runs import finish, lora_config
from worker.ml.draw.generate import PictureRequest, Resolved, generate
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.captions import CaptionsCut, readable
from worker.ml.train.train_lora import Run, train
from worker.ml.unread_words import unread, with_words_read

LONG = "a woman on a bench in a park " * 12
SHORTEST_ENCODERS = {"flux": "clip", "klein": "qwen3", "sd15": "clip"}
CONFIG = lora_config(steps=1, resolution=64)


def encoded_alike(base: Base, one: str, other: str) -> bool:
    """Return True if the shortest encoder reads the same in both: only what it sees of them counts."""
    tokens = [base.parts.tokenizer(text, truncation=True, max_length=77).input_ids for text in (one, other)]
    return bool(tokens[0] == tokens[1])


def test_a_caption_names_the_person_where_every_encoder_reads_it(base: Base, tmp_path: Path) -> None:
    late = Photo(tmp_path / "late.jpg", f"{LONG} with ohwx", f"{LONG} with a person")
    early = Photo(tmp_path / "early.jpg", f"ohwx, {LONG}", f"a person, {LONG}")
    short = Photo(tmp_path / "short.jpg", "a park with ohwx", "a park with a person")
    assert encoded_alike(base, late.caption, late.class_caption or "")  # preservation would teach the opposite
    (moved, first, plain), cut = readable(base, [late, early, short], "ohwx", "a person")
    assert (moved.caption, moved.class_caption) == (f"ohwx, {late.caption}", f"a person, {late.class_caption}")
    assert not encoded_alike(base, moved.caption, moved.class_caption or "")
    assert (first, plain) == (early, short)
    assert isinstance(cut, CaptionsCut)
    assert cut.photos == (late.path, early.path)
    assert cut.summary.startswith(f"2 of 3 captions are longer than {SHORTEST_ENCODERS[base.family.name]}")
    assert cut.summary.endswith("late.jpg, early.jpg")


def test_a_training_reports_the_captions_that_are_cut(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    long = replace(photos[0], caption=f"{LONG} with ohwx")
    events: list[object] = []
    finish(train(base, [long, photos[1]], CONFIG, Run(tmp_path, trigger_word="ohwx", class_name="a person")), events)
    assert [event.photos for event in events if isinstance(event, CaptionsCut)] == [(long.path,)]
    events = []
    finish(train(base, photos[:2], CONFIG, Run(tmp_path, trigger_word="ohwx", class_name="a person")), events)
    assert not [event for event in events if isinstance(event, CaptionsCut)]


@pytest.mark.parametrize("word", ["ohwx", "OHWX", "zoe\u0308"])
def test_a_prompt_names_the_person_where_every_encoder_reads_it(base: Base, word: str) -> None:
    prompt = f"{LONG} with {word.lower()}"
    assert with_words_read(base, prompt, [word]) == f"{word}, {prompt}"
    assert with_words_read(base, f"{word}, {LONG}", [word]) == f"{word}, {LONG}"
    assert with_words_read(base, LONG, [word]) == LONG  # it is the caller who adds a missing word


def test_a_word_that_another_pushes_out_follows_it(base: Base) -> None:
    """At the limit of what is read, a word put first moves all others."""
    beginnings = [f"{'a ' * count}anna" for count in range(90)]
    at_the_limit = [text for text in beginnings if not unread(base, text, ["anna"])][-1]
    prompt = f"{at_the_limit} with ohwx"
    assert unread(base, prompt, ["anna", "ohwx"]) == ["ohwx"]
    assert with_words_read(base, prompt, ["anna", "ohwx"]) == f"ohwx, anna, {prompt}"


@torch.no_grad()
def test_a_picture_of_a_long_prompt_is_that_of_the_word_first(base: Base) -> None:
    def pixels(prompt: str, *words: str) -> list[object]:
        asked = PictureRequest(prompt, None, 64, 64, 1, None, 3, trigger_words=words)
        return [event for event in generate(base, asked) if not isinstance(event, Resolved)]

    late = f"{LONG} with ohwx"
    drawn, first = pixels(late, "ohwx")[-1], pixels(f"ohwx, {late}")[-1]
    assert (drawn.pixels == first.pixels).all()  # type: ignore[attr-defined]

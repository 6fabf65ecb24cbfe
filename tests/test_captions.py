"""Captions for training: a photo's person by the trigger word, and its class in place of that word."""

from __future__ import annotations

import pytest

from worker.jobs.wording import caption, name_class


@pytest.mark.parametrize(
    ("given", "trained_with"),
    [
        (None, "a photo of ohwx"),
        ("at the sea", "ohwx, at the sea"),
        ("ohwx at the sea", "ohwx at the sea"),
        ("a portrait of ohwx, smiling", "a portrait of ohwx, smiling"),
        ("johwx at the sea", "ohwx, johwx at the sea"),
    ],
)
def test_every_caption_names_the_trigger_word(given: str | None, trained_with: str) -> None:
    assert caption(given, "ohwx") == trained_with


@pytest.mark.parametrize(
    ("text", "class_name", "of_the_class"),
    [
        ("a photo of ohwx", "a person", "a photo of a person"),
        ("ohwx, at the sea", "a person", "a person, at the sea"),
        ("ohwx beside a poster of ohwx", "a woman", "a woman beside a poster of a woman"),
        ("a photo of ohwx person, at the sea", "a person", "a photo of a person, at the sea"),
        ("a photo of a ohwx person", "a person", "a photo of a person"),
        ("a photo of a ohwx person", "person", "a photo of a person"),
        ("a photo of ohwx mug", "a blue mug", "a photo of a blue mug"),
        ("ohwx personally", "a person", "a person personally"),
        ("a photo of johwx and ohwxs by ohwx", "a person", "a photo of johwx and ohwxs by a person"),
    ],
)
def test_the_class_replaces_the_trigger_word_only_as_a_whole_word(
    text: str, class_name: str, of_the_class: str
) -> None:
    assert name_class(text, "ohwx", class_name) == of_the_class

"""Captions for training: a photo's person by the trigger word, and its class in place of that word."""

from __future__ import annotations

import unicodedata

import pytest

from worker.jobs.wording import caption, merged_prompt, name_class

NFC, NFD = "zo\u00eb", "zoe\u0308"


@pytest.mark.parametrize(
    ("given", "trained_with"),
    [
        (None, "photo of ohwx person"),
        ("at the sea", "ohwx, at the sea"),
        ("ohwx at the sea", "ohwx at the sea"),
        ("a portrait of ohwx, smiling", "a portrait of ohwx, smiling"),
        ("johwx at the sea", "ohwx, johwx at the sea"),
        ("Ohwx at the sea", "Ohwx at the sea"),
        ("OHWX's dog", "OHWX's dog"),
    ],
)
def test_every_caption_names_the_trigger_word(given: str | None, trained_with: str) -> None:
    assert caption(given, "ohwx", "a person") == trained_with


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
        ("photo of Ohwx person", "a person", "photo of a person"),
        ("photo of A OHWX Person", "a person", "photo of a person"),
        ("photo of ohwx blue mug", "a blue mug", "photo of a blue mug"),
        ("photo of ohwx mug", "the Blue Mug", "photo of the Blue Mug"),
        ("ohwx personally", "a person", "a person personally"),
        ("a photo of johwx and ohwxs by ohwx", "a person", "a photo of johwx and ohwxs by a person"),
    ],
)
def test_the_class_replaces_the_trigger_word_only_as_a_whole_word(
    text: str, class_name: str, of_the_class: str
) -> None:
    assert name_class(text, "ohwx", class_name) == of_the_class


@pytest.mark.parametrize(("word", "text"), [(NFC, NFD), (NFD, NFC), (NFD, NFD), (NFC, NFC.upper()), ("C++", "c++")])
def test_the_trigger_word_is_found_in_any_case_and_unicode_form(word: str, text: str) -> None:
    assert caption(f"photo of {text}, smiling", word, "a person").casefold().count("photo") == 1
    assert caption(f"photo of {text}, smiling", word, "a person").startswith("photo of ")
    assert name_class(f"photo of {text}, smiling", word, "a person") == "photo of a person, smiling"
    assert merged_prompt(f"{text} at the sea", None, [word]).endswith(" at the sea")
    assert "," not in merged_prompt(f"{text} at the sea", None, [word])


@pytest.mark.parametrize("word", ["\u0130lkay", "i\u0307lkay"])
@pytest.mark.parametrize("text", ["\u0130lkay", "I\u0307lkay", "i\u0307lkay", "\u0130LKAY", "ilkay"])
def test_a_word_with_a_dotted_capital_i_is_found_in_its_lower_case(word: str, text: str) -> None:
    text = unicodedata.normalize("NFC", f"photo of {text} at the sea")
    assert caption(text, word, "a person") == text
    assert name_class(text, word, "a person") == "photo of a person at the sea"


def test_a_trigger_word_is_found_in_a_script_without_spaces() -> None:
    text = "\u82b1\u5b50\u306e\u5199\u771f"  # a photo of Hanako
    assert caption(text, "\u82b1\u5b50", "a person") == text
    assert name_class(text, "\u82b1\u5b50", "a person") == "a person\u306e\u5199\u771f"


def test_the_default_caption_names_the_class_without_its_article() -> None:
    assert caption(None, "ohwx", "a blue mug") == "photo of ohwx blue mug"
    assert name_class("photo of ohwx blue mug", "ohwx", "a blue mug") == "photo of a blue mug"
    assert caption(None, "ohwx", "person") == "photo of ohwx person"

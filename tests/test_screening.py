"""Screening of prompts: it finds whole words in any disguise, in both languages."""

from __future__ import annotations

import random
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prompts import DISGUISES, HIDE_AN_AGE, Example, examples
from worker.guard import screening
from worker.guard.screening_folding import fold, folding, squeeze


def test_every_example_is_classified_as_its_list_says() -> None:
    wrong = []
    for example in examples():
        rule = screening.find(example.text, example.kind)
        if (rule and rule.category) != example.category:
            wrong.append((example.text, example.category, rule and rule.id))
    assert wrong == []
    blocked = [example for example in examples() if example.category]
    assert len(blocked) > 250
    assert len(examples()) - len(blocked) > 250


@pytest.mark.parametrize(
    ("text", "found", "words"),
    [
        ("ohwx, N4KED on a sofa", "n4ked", "naked"),
        ("a young, girl", "young, girl", "young girl"),
        ("n|u|d|e", "n,u,d,e", "nude"),
        ("a 14 year old", "N year oid", None),
    ],
)
def test_a_match_names_the_found_text_and_its_term(text: str, found: str, words: str | None) -> None:
    match = screening.find_match(text)
    assert match is not None
    assert (match.found, match.term and match.term.words) == (found, words)


def test_every_term_is_found() -> None:
    missed = [term.letters for term in screening.terms() if screening.find(term.letters, term.rule.screens) is None]
    assert missed == []


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_term_is_found_in_the_disguise(disguise: str) -> None:
    put_on = DISGUISES[disguise]
    missed = [
        term.letters
        for term in some_terms(disguise)
        if screening.find(f"photo of {put_on(term.letters)} at dusk", term.rule.screens) is None
    ]
    assert missed == []


@pytest.mark.parametrize(
    "text",
    ["4 " * 500 + "5 " * 500, "@@ " * 330 + "5 " * 500, "$" * 2000, "4,@@," * 200 + "5," * 500, "il1" * 660],
    ids=["digits", "signs, then digits", "one sign", "commas", "three that are one"],
)
def test_screening_work_is_bounded_by_the_length_of_the_prompt(text: str) -> None:
    """Counts calls. The first of these texts once took 15 s, and a training can have 200 captions."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    screening.find("the tables are read")
    sys.setprofile(count)
    try:
        screening.find(text)
    finally:
        sys.setprofile(None)
    assert calls < 2000 * len(text)


@pytest.mark.parametrize("disguise", ["as it is", "upper case", "accented", "look-alikes"])
def test_no_term_is_found_inside_a_longer_word(disguise: str) -> None:
    found = [
        term.letters
        for term in some_terms(disguise)
        if screening.find(DISGUISES[disguise](f"qx{term.letters}xq"), term.rule.screens)
    ]
    assert found == []


def some_terms(seed: str) -> list[screening.Term]:
    """Sample terms, differently for each seed. Emoji have no letters to disguise."""
    words = [term for term in screening.terms() if term.letters.isascii()]
    return random.Random(seed).sample(words, 300)


@given(st.text())
def test_folding_is_idempotent(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(
    st.sampled_from([example for example in examples() if example.category]),
    st.sampled_from([example for example in examples() if example.category is None and example.kind == "prompt"]),
)
def test_an_allowed_prompt_beside_a_blocked_one_does_not_hide_it(blocked: Example, innocent: Example) -> None:
    assert screening.find(f"{innocent.text}, {blocked.text}", blocked.kind) is not None
    assert screening.find(f"{blocked.text}, {innocent.text}", blocked.kind) is not None


def test_an_allowed_phrase_is_listed_only_around_a_term() -> None:
    """Other allowed phrases would have no effect."""
    needless = []
    for kind in screening.screens():
        terms = {squeeze(term.letters) for term in screening.terms() if term.rule.screens == kind}
        for phrase in screening.allowed_phrases(kind):
            pieces = folding().pieces.findall(phrase)
            stretches = ["".join(pieces[i:j]) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)]
            if terms.isdisjoint(squeeze(stretch) for stretch in stretches):
                needless.append(phrase)
    assert needless == []


@pytest.mark.parametrize("disguise", sorted(DISGUISES.keys() - HIDE_AN_AGE))
@pytest.mark.parametrize(
    "age", ["14 year old", "fourteen years old", "18 months old", "12-latka", "younger than sixteen"]
)
def test_an_age_is_found_in_the_disguise(age: str, disguise: str) -> None:
    assert screening.find(f"photo of a person, {DISGUISES[disguise](age)}") is not None


@pytest.mark.parametrize("age", range(18))
def test_no_age_below_18_passes(age: int) -> None:
    for prompt in (
        f"a {age} year old woman",
        f"{age}yo",
        f"woman aged {age}",
        f"kobieta, {age} lat",
        f"w wieku {age} lat",
    ):
        rule = screening.find(prompt)
        assert rule is not None, prompt
        assert rule.category == "minors"


@pytest.mark.parametrize("age", [18, 19, 20, 21, 25, 30, 42, 70, 99, 100, 105, 117])
def test_ages_from_18_on_pass(age: int) -> None:
    for prompt in (
        f"a {age} year old woman",
        f"{age}yo",
        f"woman aged {age}",
        f"kobieta, {age} lat",
        f"w wieku {age} lat",
    ):
        assert screening.find(prompt) is None, prompt


def test_every_latin_letter_with_a_stroke_or_a_tail_is_folded_to_the_letter() -> None:
    """As Unicode names them, in the whole first plane, except for a v that looks like a u."""
    named = re.compile("LATIN (?:SMALL|CAPITAL) LETTER ([A-Z])(?: WITH (?!SMALL LETTER).*)?")
    growing = range(0xA7CB, 0xA7F2)  # versions of Unicode differ here
    names = {
        chr(code): named.fullmatch(unicodedata.name(chr(code), "")) for code in range(0x10000) if code not in growing
    }
    letters = {character: name.group(1).lower() for character, name in names.items() if name}
    letters |= {"\u028b": "u", "\u01b2": "u"}
    assert len(letters) > 600
    assert {character for character, letter in letters.items() if fold(character) != letter} == set()


def test_every_decimal_digit_is_folded_to_the_ascii_digit() -> None:
    digits = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) == "Nd"]
    assert len(digits) > 300
    assert {c for c in digits if fold(c) != str(unicodedata.digit(c))} == set()


@pytest.mark.parametrize(
    "text",
    [
        "єЄҽ eee",
        "ҫϲϹ ccc",
        "өΘ oo",
        "ӄҝ kk",
        "ңћђ hhh",
        "∂ d",
        "ᑎ∩ nn",
        "ΛΔ aa",
        "ΞΣ\u212e∈∊ eeeee",
        "ժմղ dun",
        "\u217c\u04cf\u04c0 |||",
        "ᗩᗷᑕᗪᗴᖴᕼᒍᒪᗰᑎᑭᑫᖇᔕᑌᐯᗯᘔ abcdefhjlmnpqrsuvwz",
    ],
)
def test_a_look_alike_is_folded_to_the_letter_it_resembles(text: str) -> None:
    disguised, _, plain = text.partition(" ")
    assert fold(disguised) == plain

"""Prompts that must be refused and prompts that must be allowed, as people write them, and disguises for words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.guard import screening
from worker.guard.screening_list import data

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Example:
    """A prompt; one without a `category` must be allowed."""

    text: str
    kind: screening.Kind
    category: str | None
    at_insert: bool = False
    """True if an INSERT must refuse it too, not only the worker."""


def _lines(name: str) -> list[str]:
    return [line for line in (DATA / name).read_text().splitlines() if line and not line.startswith("#")]


def examples() -> list[Example]:
    found: list[Example] = []
    kinds: dict[screening.Kind, str] = {"prompt": "prompts", "negative_prompt": "negative_prompts"}
    for kind, name in kinds.items():
        for line in _lines(f"{name}_blocked.txt"):
            label, _, text = line.partition(": ")
            category, _, by_worker_alone = label.partition(" ")
            found.append(Example(text, kind, category, at_insert=not by_worker_alone))
        found += [Example(text, kind, None) for text in _lines(f"{name}_allowed.txt")]
    return found


def as_signs(word: str) -> str:
    """Replace letters, except the first two, by signs that resemble them."""
    leet: dict[str, str] = data()["folding"]["leet"]
    return word[:2] + "".join(leet[letter][0] if letter in leet else letter for letter in word[2:])


def as_look_alikes(word: str) -> str:
    """Replace letters by look-alikes of other scripts."""
    others: dict[str, str] = data()["folding"]["look_alikes"]
    return "".join(others[letter][-4] if letter in others else letter for letter in word)


def _shifted(word: str, first: int) -> str:
    """Replace letters by those of another Unicode alphabet, such as mathematical or fullwidth letters."""
    return "".join(chr(first + ord(letter) - ord("a")) if "a" <= letter <= "z" else letter for letter in word)


DISGUISES: dict[str, Callable[[str], str]] = {
    "as it is": lambda word: word,
    "upper case": lambda word: unicodedata.normalize("NFC", word).upper(),
    "spaced": " ".join,
    "dotted": ".".join,
    "dashed": "-".join,
    "starred": "*".join,
    "comma after each letter": ", ".join,
    "zero-width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "struck through": lambda word: "".join(letter + "\u0336" for letter in word),
    "accented": lambda word: "".join(letter + "\u0301" for letter in word),
    "fullwidth": lambda word: _shifted(word, 0xFF41),
    "mathematical": lambda word: _shifted(word, 0x1D4EA),
    "circled": lambda word: _shifted(word, 0x24D0),
    "flags": lambda word: " ".join(_shifted(word, 0x1F1E6)),
    "look-alikes": as_look_alikes,
    "signs": as_signs,
    "spaced signs": lambda word: " ".join(as_signs(word)),
    "bars": "|".join,
    "exclamation marks": "!".join,
    "pluses": "+".join,
    "dollars": "$".join,
    "spaced bars": " | ".join,
    "ones": "1".join,
    "a bar in the middle": lambda word: f"{word[:2]}|{word[2:]}",
    "in brackets": lambda word: f"(({word}:1.3))",
    "between digits": lambda word: f"1{word}2",
    "last letter repeated": lambda word: word + word[-1] * 3,
    "every letter repeated": lambda word: "".join(letter * 3 for letter in word),
}
"""The worker must see through all of these."""

HIDE_AN_AGE = {
    "spaced signs",
    "ones",
    "a bar in the middle",
    "between digits",
    "last letter repeated",
    "every letter repeated",
}
"""Disguises that do hide an age: two at once, another number, a word in parts."""

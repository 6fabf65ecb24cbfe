"""Fold a text to plain lower-case letters, digits and a few symbols, so that no disguise hides a word."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from string import ascii_lowercase, ascii_uppercase

from worker.guard.screening_list import data


@dataclass(frozen=True)
class Folding:
    """Tables and patterns for folding a text and cutting it into pieces."""

    ignored: re.Pattern[str]
    letters: dict[int, str]
    """Upper case and look-alikes to a…z, digits of all scripts to 0…9."""
    leet: dict[int, str]
    """Signs to the letter that they stand for, and letters that share a sign to one of them."""
    signs: dict[str, str]
    """Letters to the set, as in a regular expression, of themselves and the signs that stand for them."""
    punctuation: re.Pattern[str]
    pieces: re.Pattern[str]
    """A run of letters, a run of digits, or a single symbol."""


def fold(text: str) -> str:
    """Return the text in lower-case letters, digits and the symbols that stand for letters; idempotent.

    Words are separated by one space, by "," for punctuation that touches both sides, or by ", " for other punctuation.
    """
    tables = folding()
    # Look-alikes first: NFKD turns U+03F2, which looks like a c, into a sigma.
    decomposed = unicodedata.normalize("NFKD", _I_OR_L.sub("|", text).translate(tables.letters))
    plain = tables.ignored.sub("", decomposed).translate(tables.letters)
    return _break(tables.punctuation.sub(",", _SPACES.sub(" ", plain)))


_I_OR_L = re.compile("(?<=[a-z])I|(?<=[A-Z])l(?=[A-Z])")
"""Of the other case, one is written for the other: "chiId", "CHlLD"."""
_SPACES = re.compile("[-_ \\t\\n\\r\\f\\v\\u2010-\\u2015]+")


def part_words(folded: str) -> str:
    """Return a folded text with signs, and digits between single letters, as breaks: "n,u,d,e" for "n|u|d|e"."""
    return _break(_DIGITS_BETWEEN_LETTERS.sub(r"\1 ", _SIGNS.sub(",", folded)))


_SIGNS = re.compile("[^a-z0-9 ]+")
_DIGITS_BETWEEN_LETTERS = re.compile("(?<![a-z])([a-z])[ ,]*[0-9]+[ ,]*(?=[a-z](?![a-z]))")


def _break(text: str) -> str:
    return _BREAKS.sub(", ", text).strip(" ,")


_BREAKS = re.compile("(?: ,|, )[, ]*")


def skeleton(text: str) -> str:
    """Return what two folded texts have in common when signs may make them the same."""
    return text.translate(folding().leet)


def squeeze(text: str) -> str:
    """Return the text with each run of a repeated letter as one."""
    return "".join(letter for letter, _ in groupby(text))


@cache
def folding() -> Folding:
    """Return the tables of the data file, ready for use."""
    table = data()["folding"]
    letters = {ord(upper): upper.lower() for upper in ascii_uppercase}
    letters |= {ord(other): letter for letter, others in table["look_alikes"].items() for other in others}
    letters |= _named_after(letters)
    kept = re.escape(_symbols())
    return Folding(
        ignored=re.compile(f"[{''.join(table['ignored'])}]"),
        letters=letters,
        leet=_one_letter_a_sign(table["leet"]),
        signs={letter: f"[{letter}{re.escape(others)}]" for letter, others in table["leet"].items()},
        punctuation=re.compile(f"[^a-z0-9 {kept}]+"),
        pieces=re.compile(f"[a-z]+|[0-9]+|[{kept}]"),
    )


def _symbols() -> str:
    """Return what stands for a letter and is neither letter nor digit, and symbols that are terms themselves."""
    standing_in = "".join(data()["folding"]["leet"].values())
    listed = "".join(phrase for row in data()["rules"] for phrase in row.get("en", ()))
    return "".join(sorted({c for c in standing_in + listed if not c.isalnum() and c not in " {},"}))


def _named_after(letters: dict[int, str]) -> dict[int, str]:
    """Map what NFKD does not change: letters "WITH STROKE" and so on to those they are named after, digits to 0…9."""
    table: dict[int, str] = {}
    for code in _NAMED:
        character = chr(code)
        if code in letters or unicodedata.normalize("NFKD", character) != character:
            continue
        if unicodedata.category(character) == "Nd":
            table[code] = str(unicodedata.digit(character))
        first_half, is_named_after, _ = unicodedata.name(character, "").partition(" WITH ")
        letter = _letter_named(first_half, letters) if is_named_after else ""
        if letter:
            table[code] = letter
    return table


_NAMED = (*range(0x80, 0xA7CB), *range(0xA7F2, 0x10000))
"""The first plane, except where Unicode still adds Latin letters: the table is the same in each Python."""


def _letter_named(name: str, letters: dict[int, str]) -> str:
    """Return one of a…z, or an empty string."""
    try:
        plain = unicodedata.normalize("NFKD", unicodedata.lookup(name)).translate(letters)
    except KeyError:  # half of "APL FUNCTIONAL SYMBOL CIRCLE WITH ..." names nothing
        return ""
    return plain if plain in ascii_lowercase else ""


def _one_letter_a_sign(leet: dict[str, str]) -> dict[int, str]:
    """Map each sign to one letter. 1 stands for i and for l, so that 1, i and l all become i."""
    table: dict[int, str] = {}
    for letter, others in leet.items():
        shared = next((table[ord(other)] for other in others if ord(other) in table), letter)
        table |= {ord(other): shared for other in others}
        if shared != letter:
            table[ord(letter)] = shared
    return table

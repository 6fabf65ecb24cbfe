"""Find ages below 18 in a folded text: in digits and in words, in English and Polish, in the usual disguises.

A number below 18 becomes N. `[ages]` in `guardrails.toml` says what is innocent, and where N is a person's age.
"""

from __future__ import annotations

import re
from functools import cache

from worker.guard.screening_folding import fold, skeleton
from worker.guard.screening_list import data


def find_minors_age(folded: str) -> str | None:
    """Return the part of a folded text that gives a person's age below 18, or None.

    It is as the patterns read it: N stands for the number, and i also for l.
    """
    as_numbers, as_letters, spelled = _readings(folded)
    words, parts = _finders()
    found = words.find(as_numbers)
    if found is None and as_letters != as_numbers:
        found = words.find(as_letters)
    if found is None and spelled:
        found = parts.find(spelled)
    return found


def _readings(folded: str) -> tuple[str, str, str]:
    """Return the text with its digits as numbers, with those in words as letters, and its spelled words as words.

    "14yo" is "14 yo", "l4 ye4rs 0ld" is "14 years old", "a 14 y e a r s o l d" is "14yearsold"; l is i in all of them.
    """
    words = _NUMBER_THEN_UNIT.sub(r"\1 ", folded)
    spelled = _SPELLED.findall(re.sub("[ ,]+", " ", folded))
    return (
        _one_of_i_and_l(_NUMBER_EDGE.sub(r"\1 ", folded)),
        _one_of_i_and_l(_WORD.sub(lambda word: _in_letters(word.group()), words)),
        _one_of_i_and_l(" ".join(run.replace(" ", "") for run in spelled)),
    )


_NUMBER_EDGE = re.compile("([0-9](?=[a-z])|[a-z](?=[0-9]{2} ?y)|(?<![^ ,])aged?(?=[0-9]))")
"""As in "14yo", "woman14yo" and "aged14"."""
_NUMBER_THEN_UNIT = re.compile("(?<![^ ,])((?:[lio][0-9]|1[lio])(?=y)|[1-9][0-9]?(?=[ymwd]|l[^ ,]))")
"""Years, months, weeks, days or "lat", and years alone behind "l4": "5ixteen" and "o1d" are words."""
_LETTERS_FOR_DIGITS = re.compile("[lio][0-9]|1[lio]")
_WORD = re.compile("[^ ,]+")
_SPELLED = re.compile("(?<![^ ])(?:[^ ]+ |(?:[0-9] ){0,2})(?:[^ 0-9] ){2,}[^ ]*")
"""With the word behind it and the one before, unless single digits are the number: "aged 42, 1 4 y e a r s"."""


def _in_letters(word: str) -> str:
    if _LETTERS_FOR_DIGITS.fullmatch(word):
        return word.translate(_DIGITS)
    return word if word.isdigit() else skeleton(word)


_DIGITS = str.maketrans("lio", "110")


def _one_of_i_and_l(text: str) -> str:
    """Return the text with i for l: which of the two 1 and | stand for is never known."""
    return text.replace("l", "i")


class _AgeFinder:
    """The patterns of the data file between two edges: of whole words, or anywhere in a word spelled by letters."""

    def __init__(self, edge: str) -> None:
        ages = data()["ages"]
        larger_numbers = _as_read(_larger_numbers(), " ?")
        # The longest first: "fourteen" is not a "four" where no word ends.
        numbers = sorted([*ages["units"], *ages["teens"], *ages["digits"]], key=len, reverse=True)
        self._larger_numbers = re.compile(f"{edge}(?:{larger_numbers}){edge}")
        self._numbers = re.compile(f"(?<![0-9]){edge}(?:{_as_read('|'.join(numbers), ' ?')}){edge}(?![0-9])")
        innocent = _as_read("|".join(ages["innocent"]), " ?")
        # Spelled words have lost their punctuation, at which innocent phrases end.
        self._innocent = re.compile(f"{edge}(?:{innocent}){edge}") if edge else _NOTHING
        self._ages = re.compile(f"{edge}(?:{_as_read('|'.join(ages['patterns']), ',? ?')}){edge}")

    def find(self, reading: str) -> str | None:
        """Return the stretch that gives an age below 18, or None."""
        text = self._numbers.sub("N", self._larger_numbers.sub("", reading))
        if self._ages.search(text) is None:
            return None
        found = self._ages.search(self._innocent.sub("", text))
        return found.group() if found else None


_NOTHING = re.compile("(?!)")


@cache
def _finders() -> tuple[_AgeFinder, _AgeFinder]:
    return _AgeFinder(r"\b"), _AgeFinder("")


def _larger_numbers() -> str:
    """Return a pattern for numbers in words that end in a small one, "twenty one", and numbers that only count."""
    ages = data()["ages"]
    units, teens = "|".join(ages["units"]), "|".join(ages["teens"])
    tens, hundreds = "|".join(ages["tens"]), "|".join(ages["hundreds"])
    return "|".join([f"(?:{tens}) (?:{units})", f"(?:{hundreds}) (?:{units}|{teens})", *ages["counted"]])


def _as_read(pattern: str, space: str) -> str:
    """Return a pattern over folded text, from one as people write; `space` is what may separate its words."""
    for name, meanings in data()["ages"]["parts"].items():
        pattern = pattern.replace(name, "|".join(meanings))
    folded = "".join(
        fold(character) if character.isalpha() and not character.isascii() else character for character in pattern
    )
    return _one_of_i_and_l(folded.replace(" ", space))

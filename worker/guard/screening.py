"""Find blocked words in a text, in any disguise. `guardrails.toml` lists the words; this file says how they are found.

A folded text is cut into pieces: runs of letters, runs of digits, single symbols. A term is found wherever consecutive
pieces spell it, so "n u d e", "nu-de" and "n.4.k.3.d" are seen, while no piece is ever cut: "Sussex" and "kidney" pass.
Digits and symbols may stand for letters, or between them, so that a text with any is read both ways, and letters may be
repeated. The worker refuses jobs by this; `sql/guardrails.sql` finds plain words only, for early feedback at INSERT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby
from typing import Literal

from worker.guard.screening_ages import find_minors_age
from worker.guard.screening_folding import fold, folding, part_words, skeleton, squeeze
from worker.guard.screening_list import data, expand

NOT_DIGITS = 2
"""The letters or signs that a disguised word must contain: "A55" is a road and a phone."""
MAX_PIECES = 100
"""The limit for one term, spelled letter by letter and some repeated; otherwise a prompt of signs takes seconds."""

Kind = Literal["prompt", "negative_prompt"]
"""A negative prompt has its own rules: it says what to avoid."""


@dataclass(frozen=True)
class Rule:
    """Something that is blocked; `asks` describes it without quoting a prompt."""

    id: str
    category: str
    asks: str
    screens: Kind = "prompt"


@dataclass(frozen=True)
class Term:
    """A word or phrase, and the rule that it breaks."""

    words: str
    """Folded: "young girl"."""
    rule: Rule

    @cached_property
    def letters(self) -> str:
        """Return the words without spaces."""
        return self.words.replace(" ", "")

    @property
    def is_phrase(self) -> bool:
        """Return True for several words: punctuation may separate them."""
        return " " in self.words

    @cached_property
    def disguises(self) -> re.Pattern[str]:
        """Return a pattern of the letters, each possibly repeated, or replaced by a sign that stands for it."""
        return re.compile("".join(f"{letter}{{{count},}}" for letter, count in self._letters()))

    @cached_property
    def disguises_in_parts(self) -> re.Pattern[str]:
        """Return the pattern for letters with gaps, where a doubled letter may be innocent: "an all-white outfit"."""
        return re.compile("".join(f"(?:{letter}{{{count}}}|{letter}{{3,}})" for letter, count in self._letters()))

    def _letters(self) -> list[tuple[str, int]]:
        """Return what stands for each letter, as a regular expression, and how often it is repeated."""
        runs = [(letter, len(list(run))) for letter, run in groupby(self.letters)]
        return [(folding().signs.get(letter, re.escape(letter)), count) for letter, count in runs]


@dataclass(frozen=True)
class Match:
    """A rule that a text breaks, and where: for an operator's terminal, never for a message or a log."""

    rule: Rule
    found: str
    """The words of the folded text."""
    term: Term | None
    """None: an age below 18, as `find_minors_age` returns it."""


def find(text: str, kind: Kind = "prompt") -> Rule | None:
    """Return the first rule that a text breaks, or None."""
    match = find_match(text, kind)
    return match.rule if match else None


def find_match(text: str, kind: Kind = "prompt") -> Match | None:
    """Return the first rule that a text breaks with the words that break it, or None."""
    folded = fold(text)
    readings = dict.fromkeys((folded, part_words(folded)))
    for reading in readings:
        match = _find_term(reading, screens()[kind])
        if match is not None:
            return match
    if kind == "prompt":
        for reading in readings:
            age = find_minors_age(reading)
            if age is not None:
                return Match(age_rule(), age, None)
    return None


def _find_term(folded: str, screen: Screen) -> Match | None:
    pieces = list(folding().pieces.finditer(folded))
    spellings = [squeeze(skeleton(piece.group())) for piece in pieces]
    for first, piece in enumerate(pieces):
        spelled, not_digits = "", 0
        for last in range(first, min(first + MAX_PIECES, len(pieces))):
            spelled = _join(spelled, spellings[last])
            if spelled not in screen.beginnings:
                break
            start, end = piece.start(), pieces[last].end()
            not_digits += 0 if pieces[last].group().isdigit() else len(pieces[last].group())
            for term in screen.terms.get(spelled, ()):
                # Counted here, because "4 4 4 … 5 5 5" holds a term's letters between any two of its digits.
                if not_digits < min(NOT_DIGITS, len(term.letters)):
                    continue
                if _spells(folded, (start, end), term) and not _is_allowed(folded, pieces, (first, last), screen):
                    return Match(term.rule, folded[start:end], term)
    return None


def _join(first: str, second: str) -> str:
    """Return two squeezed texts as one."""
    return first + second[1:] if first and second and first[-1] == second[0] else first + second


def _spells(folded: str, span: tuple[int, int], term: Term) -> bool:
    """Return True if a stretch of the text, known to hold the term's letters once each, is the term as a whole word."""
    start, end = span
    stretch = folded[start:end]
    spelled = stretch.replace(" ", "").replace(",", "")
    before, after = _LETTER_BESIDE[_DIGIT.search(stretch) is not None]
    if before.search(folded, 0, start) or after.match(folded, end):
        return False
    if spelled == stretch or _LETTER_BY_LETTER.fullmatch(stretch):
        return term.disguises.fullmatch(spelled) is not None
    if _LONE_SIGN.search(stretch) or (", " in stretch and not term.is_phrase):
        return False  # "top 5 ex-models", "crop top, less contrast"
    return term.disguises_in_parts.fullmatch(spelled) is not None


_DIGIT = re.compile("[0-9]")
_LETTER_BESIDE = {
    False: (re.compile("[a-z]$"), re.compile("[a-z]")),
    # Digits in a word that go on beside it, up to a letter, are a serial number: "ohwx0b00b2".
    True: (re.compile("[a-z][0-9]*$"), re.compile("[0-9]*[a-z]")),
}
_LETTER_BY_LETTER = re.compile("[^ ,](?:[ ,]+[^ ,])*")
_LONE_SIGN = re.compile("(?:^|[ ,])[^a-z ,]+(?:[ ,]|$)")


def _is_allowed(folded: str, pieces: list[re.Match[str]], found: tuple[int, int], screen: Screen) -> bool:
    """Return True if an innocent phrase covers the pieces found."""
    first, last = found
    for start in range(max(0, last - screen.longest_allowed + 1), first + 1):
        for end in range(last, min(len(pieces), start + screen.longest_allowed)):
            if folded[pieces[start].start() : pieces[end].end()] in screen.allowed:
                return True
    return False


@dataclass(frozen=True)
class Screen:
    """The terms and innocent phrases for one kind of prompt."""

    terms: dict[str, tuple[Term, ...]]
    """By their squeezed skeletons."""
    beginnings: frozenset[str]
    """Every beginning of a squeezed skeleton: where none matches, no longer stretch of the text can."""
    allowed: frozenset[str]
    """Folded phrases in which no word counts."""
    longest_allowed: int
    """In pieces."""


@cache
def screens() -> dict[Kind, Screen]:
    """Return the data file, ready for looking up."""
    return {"prompt": _screen("prompt"), "negative_prompt": _screen("negative_prompt")}


def _screen(kind: Kind) -> Screen:
    found: dict[str, tuple[Term, ...]] = {}
    for term in terms():
        if term.rule.screens == kind:
            squeezed = squeeze(skeleton(term.letters))
            found[squeezed] = (*found.get(squeezed, ()), term)
    allowed = allowed_phrases(kind)
    return Screen(
        terms=found,
        beginnings=frozenset(squeezed[:end] for squeezed in found for end in range(1, len(squeezed) + 1)),
        allowed=allowed,
        longest_allowed=max(len(folding().pieces.findall(phrase)) for phrase in allowed),
    )


@cache
def rules() -> dict[str, Rule]:
    """Return every rule by its id, the one about ages included."""
    found = [Rule(row["id"], row["category"], row["asks"], row.get("screens", "prompt")) for row in data()["rules"]]
    return {rule.id: rule for rule in [*found, age_rule()]}


@cache
def age_rule() -> Rule:
    """Return the rule about numbers below 18."""
    ages = data()["ages"]
    return Rule(ages["id"], ages["category"], ages["asks"])


@cache
def terms() -> tuple[Term, ...]:
    """Return every term once, under the first rule that lists it, in the order of the file."""
    found: dict[tuple[Kind, str], Term] = {}
    for row in data()["rules"]:
        rule = rules()[row["id"]]
        for phrase in [*row["en"], *row["pl"]]:
            for words in map(fold, expand(phrase)):
                term = Term(words, rule)
                first = found.setdefault((rule.screens, term.letters), term)
                if term.is_phrase and not first.is_phrase:
                    found[rule.screens, term.letters] = replace(first, words=words)
    return tuple(found.values())


@cache
def allowed_phrases(kind: Kind) -> frozenset[str]:
    """Return the innocent phrases around listed words, folded."""
    return frozenset(fold(spelled) for phrase in data()["allowed"][kind] for spelled in expand(phrase))

"""Finds what may not be asked for in a text, in whatever disguise: `guardrails.toml` says what, this file how.

A text is folded to plain lower-case letters, digits and a few symbols, and cut into pieces: runs of letters, runs of
digits, single symbols. A term is found wherever consecutive pieces spell it, so "n u d e", "nu-de" and "n.4.k.3.d" are
seen, while no piece is ever cut: "Sussex" and "kidney" pass. Digits and symbols may stand for letters, or between them,
so that a text with any is read both ways, and letters may be repeated. Postgres does the same at INSERT
(`sql/guardrails.sql`), except for the repeated letters.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby, product
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Literal

DATA = Path(__file__).parent / "guardrails.toml"
NOT_DIGITS = 2
"""So much of a word is left in any disguise: "A55" is a road and a phone."""
MAX_PIECES = 100
"""A term is no longer than that, letter by letter and some of them repeated; else a prompt of signs takes seconds."""

Kind = Literal["prompt", "negative_prompt"]
"""A negative prompt has rules of its own: what it names is driven away."""


@dataclass(frozen=True)
class Rule:
    """What is not allowed; `asks` says it in words that quote nobody."""

    id: str
    category: str
    asks: str
    screens: Kind = "prompt"


@dataclass(frozen=True)
class Term:
    """A word or phrase as letters alone, and the rule that it breaks."""

    letters: str
    is_phrase: bool
    """Of several words: punctuation may stand between them."""
    rule: Rule

    @cached_property
    def disguises(self) -> re.Pattern[str]:
        """The letters, each perhaps repeated, or as a sign that stands for it."""
        return re.compile("".join(f"{letter}{{{count},}}" for letter, count in self._letters()))

    @cached_property
    def disguises_in_parts(self) -> re.Pattern[str]:
        """The same between gaps, where two of a letter may be innocent: "an all-white outfit"."""
        return re.compile("".join(f"(?:{letter}{{{count}}}|{letter}{{3,}})" for letter, count in self._letters()))

    def _letters(self) -> list[tuple[str, int]]:
        """What stands for each letter, as a regular expression, and how often it stands in a row."""
        runs = [(letter, len(list(run))) for letter, run in groupby(self.letters)]
        return [(folding().signs.get(letter, re.escape(letter)), count) for letter, count in runs]


@dataclass(frozen=True)
class Folding:
    """What is taken away from a text before it is compared."""

    ignored: re.Pattern[str]
    letters: dict[int, str]
    """Upper case and look-alikes to a…z, digits of all scripts to 0…9."""
    leet: dict[int, str]
    """Signs to the letter that they stand for, and letters that share a sign to one of them."""
    signs: dict[str, str]
    """Letters to the set, as in a regular expression, of themselves and the signs that stand for them."""
    punctuation: re.Pattern[str]
    pieces: re.Pattern[str]


def fold(text: str) -> str:
    """Lower-case letters, digits and the symbols that stand for letters; idempotent.

    Between words stands one space, "," for punctuation that touches both sides, and ", " for other punctuation.
    """
    tables = folding()
    # Looks come first: NFKD makes a sigma of what looks like a c (U+03F2).
    decomposed = unicodedata.normalize("NFKD", _I_OR_L.sub("|", text).translate(tables.letters))
    plain = tables.ignored.sub("", decomposed).translate(tables.letters)
    return _break(tables.punctuation.sub(",", _SPACES.sub(" ", plain)))


_I_OR_L = re.compile("(?<=[a-z])I|(?<=[A-Z])l(?=[A-Z])")
"""Of the other case, one is written for the other: "chiId", "CHlLD"."""
_SPACES = re.compile("[-_ \\t\\n\\r\\f\\v\\u2010-\\u2015]+")


def part_words(folded: str) -> str:
    """A folded text as if its signs, and digits between single letters, stood between words: "n|u|d|e" is "n,u,d,e"."""
    return _break(_DIGITS_BETWEEN_LETTERS.sub(r"\1 ", _SIGNS.sub(",", folded)))


_SIGNS = re.compile("[^a-z0-9 ]+")
_DIGITS_BETWEEN_LETTERS = re.compile("(?<![a-z])([a-z])[ ,]*[0-9]+[ ,]*(?=[a-z](?![a-z]))")


def _break(text: str) -> str:
    return _BREAKS.sub(", ", text).strip(" ,")


_BREAKS = re.compile("(?: ,|, )[, ]*")


def find(text: str, kind: Kind = "prompt") -> Rule | None:
    """The first rule that a text breaks, or None."""
    folded = fold(text)
    readings = dict.fromkeys((folded, part_words(folded)))
    for reading in readings:
        term = _find_term(reading, screens()[kind])
        if term is not None:
            return term.rule
    if kind == "prompt" and any(map(_names_a_minors_age, readings)):
        return age_rule()
    return None


def _find_term(folded: str, screen: Screen) -> Term | None:
    pieces = list(folding().pieces.finditer(folded))
    spellings = [squeeze(skeleton(piece.group())) for piece in pieces]
    for first, piece in enumerate(pieces):
        spelled, not_digits = "", 0
        for last in range(first, min(first + MAX_PIECES, len(pieces))):
            spelled = _join(spelled, spellings[last])
            if spelled not in screen.beginnings:
                break
            span = (piece.start(), pieces[last].end())
            not_digits += 0 if pieces[last].group().isdigit() else len(pieces[last].group())
            for term in screen.terms.get(spelled, ()):
                # Counted here, because "4 4 4 … 5 5 5" holds a term's letters between any two of its digits.
                if not_digits < min(NOT_DIGITS, len(term.letters)):
                    continue
                if _spells(folded, span, term) and not _is_allowed(folded, pieces, (first, last), screen):
                    return term
    return None


def skeleton(text: str) -> str:
    """What two folded texts have in common when signs may make them the same."""
    return text.translate(folding().leet)


def squeeze(text: str) -> str:
    """Repeated letters once."""
    return "".join(letter for letter, _ in groupby(text))


@dataclass(frozen=True)
class Screen:
    """All that is looked for in one kind of prompt."""

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
    """The data file, ready for looking up."""
    return {"prompt": _screen("prompt"), "negative_prompt": _screen("negative_prompt")}


@cache
def rules() -> dict[str, Rule]:
    """Every rule by its id, that about ages too."""
    found = [Rule(row["id"], row["category"], row["asks"], row.get("screens", "prompt")) for row in data()["rules"]]
    return {rule.id: rule for rule in [*found, age_rule()]}


@cache
def age_rule() -> Rule:
    """The rule about numbers below 18."""
    ages = data()["ages"]
    return Rule(ages["id"], ages["category"], ages["asks"])


@cache
def data() -> dict[str, Any]:
    """The data file as it stands."""
    with DATA.open("rb") as file:
        return tomllib.load(file)


@cache
def terms() -> tuple[Term, ...]:
    """Every term once, under the first rule that lists it, in the order of the file."""
    found: dict[tuple[Kind, str], Term] = {}
    for row in data()["rules"]:
        rule = rules()[row["id"]]
        for phrase in [*row["en"], *row["pl"]]:
            for words in map(fold, _expand(phrase)):
                term = Term(words.replace(" ", ""), " " in words, rule)
                first = found.setdefault((rule.screens, term.letters), term)
                if term.is_phrase and not first.is_phrase:
                    found[rule.screens, term.letters] = replace(first, is_phrase=True)
    return tuple(found.values())


@cache
def allowed_phrases(kind: Kind) -> frozenset[str]:
    """The innocent phrases around listed words, folded."""
    return frozenset(fold(spelled) for phrase in data()["allowed"][kind] for spelled in _expand(phrase))


@dataclass(frozen=True)
class AgePatterns:
    """Regular expressions over `age_readings` without word boundaries, in what Python and Postgres have in common."""

    larger_numbers: str
    """In words, those that end in a small one, "twenty one"; and those that only count."""
    numbers: str
    """Below 18; each is written N from then on."""
    innocent: str
    """What is taken out before the ages are looked for."""
    ages: str
    """Where N is somebody's age."""


@cache
def age_patterns() -> AgePatterns:
    """The data file's, one regular expression each."""
    ages = data()["ages"]
    units, teens = "|".join(ages["units"]), "|".join(ages["teens"])
    tens, hundreds = "|".join(ages["tens"]), "|".join(ages["hundreds"])
    # The longest first: "fourteen" is no "four" where no word ends.
    numbers = "|".join(sorted([*ages["units"], *ages["teens"], *ages["digits"]], key=len, reverse=True))
    larger = "|".join([f"(?:{tens}) (?:{units})", f"(?:{hundreds}) (?:{units}|{teens})", *ages["counted"]])
    return AgePatterns(
        larger_numbers=_as_read(larger, " ?"),
        numbers=_as_read(numbers, " ?"),
        innocent=_as_read("|".join(ages["innocent"]), " ?"),
        ages=_as_read("|".join(ages["patterns"]), ",? ?"),
    )


def _as_read(pattern: str, space: str) -> str:
    """A regular expression over folded text, from one written as people write; `space` is what may part its words."""
    for name, meanings in data()["ages"]["parts"].items():
        pattern = pattern.replace(name, "|".join(meanings))
    folded = "".join(
        fold(character) if character.isalpha() and not character.isascii() else character for character in pattern
    )
    return _one_of_i_and_l(folded.replace(" ", space))


def ignored_characters() -> str:
    """A set of a regular expression, for Python and Postgres."""
    return f"[{''.join(data()['folding']['ignored'])}]"


def symbols() -> str:
    """What stands for a letter and is neither letter nor digit, and symbols that are terms themselves."""
    standing_in = "".join(data()["folding"]["leet"].values())
    listed = "".join(phrase for row in data()["rules"] for phrase in row.get("en", ()))
    return "".join(sorted({c for c in standing_in + listed if not c.isalnum() and c not in " {},"}))


@cache
def folding() -> Folding:
    """The tables of the data file, ready for use."""
    table = data()["folding"]
    letters = {ord(upper): upper.lower() for upper in ascii_uppercase}
    letters |= {ord(other): letter for letter, others in table["look_alikes"].items() for other in others}
    letters |= _named_after(letters)
    kept = re.escape(symbols())
    return Folding(
        ignored=re.compile(ignored_characters()),
        letters=letters,
        leet=_one_letter_a_sign(table["leet"]),
        signs={letter: f"[{letter}{re.escape(others)}]" for letter, others in table["leet"].items()},
        punctuation=re.compile(f"[^a-z0-9 {kept}]+"),
        pieces=re.compile(f"[a-z]+|[0-9]+|[{kept}]"),
    )


def _named_after(letters: dict[int, str]) -> dict[int, str]:
    """What NFKD leaves alone: letters "WITH STROKE" and the like to those that they are named after, digits to 0…9."""
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
"""The first plane, but for where Unicode still gets new Latin letters: the table is the same in each Python."""


def _letter_named(name: str, letters: dict[int, str]) -> str:
    """Of a…z, or empty."""
    try:
        plain = unicodedata.normalize("NFKD", unicodedata.lookup(name)).translate(letters)
    except KeyError:  # half of "APL FUNCTIONAL SYMBOL CIRCLE WITH ..." names nothing
        return ""
    return plain if plain in ascii_lowercase else ""


def _one_letter_a_sign(leet: dict[str, str]) -> dict[int, str]:
    """1 stands for i and for l, so that 1, i and l are all i here."""
    table: dict[int, str] = {}
    for letter, others in leet.items():
        shared = next((table[ord(other)] for other in others if ord(other) in table), letter)
        table |= {ord(other): shared for other in others}
        if shared != letter:
            table[ord(letter)] = shared
    return table


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


def _expand(phrase: str) -> Iterator[str]:
    """Every way to choose between the alternatives of a phrase: "a{b,c}" is "ab" and "ac"."""
    endings: dict[str, list[str]] = data()["endings"]
    parts = re.split(r"\{([^}]*)\}", phrase)
    choices = [endings.get(part, part.split(",")) if index % 2 else [part] for index, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


def age_readings(folded: str) -> tuple[str, str, str]:
    """A folded text with its digits as numbers, with those in words as letters, and what is spelled as single words.

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
    """Which of the two 1 and | stand for is never known."""
    return text.replace("l", "i")


def _names_a_minors_age(folded: str) -> bool:
    as_numbers, as_letters, spelled = age_readings(folded)
    words, parts = _age_finders()
    return (
        words.finds_one(as_numbers)
        or (as_letters != as_numbers and words.finds_one(as_letters))
        or (spelled != "" and parts.finds_one(spelled))
    )


class _AgeFinder:
    """The age patterns between two edges: of whole words, or anywhere in what was spelled letter by letter."""

    def __init__(self, edge: str) -> None:
        patterns = age_patterns()
        self._larger_numbers = re.compile(f"{edge}(?:{patterns.larger_numbers}){edge}")
        self._numbers = re.compile(f"(?<![0-9]){edge}(?:{patterns.numbers}){edge}(?![0-9])")
        # Spelled words have lost their punctuation, where what is innocent ends.
        self._innocent = re.compile(f"{edge}(?:{patterns.innocent}){edge}") if edge else _NOTHING
        self._ages = re.compile(f"{edge}(?:{patterns.ages}){edge}")

    def finds_one(self, reading: str) -> bool:
        text = self._numbers.sub("N", self._larger_numbers.sub("", reading))
        return self._ages.search(text) is not None and self._ages.search(self._innocent.sub("", text)) is not None


_NOTHING = re.compile("(?!)")


@cache
def _age_finders() -> tuple[_AgeFinder, _AgeFinder]:
    return _AgeFinder(r"\b"), _AgeFinder("")


def _join(first: str, second: str) -> str:
    """Two squeezed texts as one."""
    return first + second[1:] if first and second and first[-1] == second[0] else first + second


def _spells(folded: str, span: tuple[int, int], term: Term) -> bool:
    """Whether a stretch of the text, known to hold the term's letters once each, is the term as a word of its own."""
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
    """Whether an innocent phrase covers the pieces found."""
    first, last = found
    for start in range(max(0, last - screen.longest_allowed + 1), first + 1):
        for end in range(last, min(len(pieces), start + screen.longest_allowed)):
            if folded[pieces[start].start() : pieces[end].end()] in screen.allowed:
                return True
    return False

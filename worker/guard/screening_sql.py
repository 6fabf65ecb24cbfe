"""Prints `sql/screened_terms.sql`, the words of `guardrails.toml` as Postgres looks them up.

python -m worker.guard.screening_sql > sql/screened_terms.sql
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

from worker.guard import screening

WIDTH = 110
COMMON = " etaoinsrhldcumfpgwybvkxjqz,.0123456789"
"""Postgres goes through its table for each character: what stands in front is found at once."""
HEADER = """\
-- What may not be asked for, from worker/guard/guardrails.toml.
-- Not edited: python -m worker.guard.screening_sql writes it.

delete from worker.prompt_folding;
delete from worker.screened_terms;
delete from worker.allowed_phrases;
delete from worker.screening_rules;
"""


def render() -> str:
    """The whole file."""
    return "\n".join([HEADER, _rules(), *_terms(), *_allowed_phrases(), _folding()])


def _rules() -> str:
    rows = [f"  ({_text(rule.id)}, {_text(rule.screens)}, {_text(rule.asks)})" for rule in screening.rules().values()]
    return "insert into worker.screening_rules (id, screens, asks) values\n" + ",\n".join(rows) + ";\n"


def _terms() -> Iterable[str]:
    for rule in screening.rules().values():
        for is_phrase in (False, True):
            letters = [term.letters for term in screening.terms() if (term.rule, term.is_phrase) == (rule, is_phrase)]
            if letters:
                yield (
                    "insert into worker.screened_terms (screens, letters, is_phrase, rule_id)\n"
                    f"select {_text(rule.screens)}, letters, {str(is_phrase).lower()}, {_text(rule.id)} "
                    f"from regexp_split_to_table(\n{_wrapped(letters)}, '\\s+') letters;\n"
                )


def _allowed_phrases() -> Iterable[str]:
    for kind in screening.screens():
        phrases = [phrase.replace(" ", "_") for phrase in sorted(screening.allowed_phrases(kind))]
        yield (
            "insert into worker.allowed_phrases (screens, phrase)\n"
            f"select {_text(kind)}, replace(phrase, '_', ' ') from regexp_split_to_table(\n"
            f"{_wrapped(phrases)}, '\\s+') phrase;\n"
        )


def _folding() -> str:
    folding = screening.folding()
    leet: dict[str, str] = screening.data()["folding"]["leet"]
    meanings: dict[str, str] = {}
    for letter, signs in leet.items():
        for sign in signs:
            meanings[sign] = meanings.get(sign, "") + letter
    clear = {sign: letters for sign, letters in meanings.items() if len(letters) == 1}
    longest_phrase = max(screen.longest_allowed for screen in screening.screens().values())
    ages = screening.age_patterns()
    row = {
        "ignored": folding.ignored.pattern,
        "look_alikes": COMMON + "".join(map(chr, folding.letters)),
        "letters": COMMON + "".join(folding.letters.values()),
        "symbols": screening.symbols(),
        "signs": "".join(clear),
        "sign_letters": "".join(clear.values()),
        "i_or_l": "".join(sign for sign, letters in meanings.items() if letters == "il"),
        "larger_numbers": ages.larger_numbers,
        "numbers": ages.numbers,
        "innocent_ages": ages.innocent,
        "ages": ages.ages,
        "age_rule_id": screening.age_rule().id,
    }
    values = ",\n".join(_long_text(value) for value in row.values())
    columns = ", ".join(["longest_phrase", *row])
    return f"insert into worker.prompt_folding ({columns}) values\n  ({longest_phrase},\n{values});\n"


def _wrapped(items: list[str]) -> str:
    """Items with white space between, as one literal."""
    return _text(textwrap.fill(" ".join(items), WIDTH, break_long_words=False, break_on_hyphens=False))


def _long_text(value: str) -> str:
    """One value as literals on lines of their own; SQL reads them as one."""
    return "\n".join(f"   {_text(value[start : start + WIDTH])}" for start in range(0, len(value), WIDTH))


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"


if __name__ == "__main__":
    sys.stdout.write(render())

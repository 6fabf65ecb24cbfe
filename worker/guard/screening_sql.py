"""Print `sql/screened_terms.sql`: the words and phrases of `guardrails.toml` that an INSERT is screened for.

python -m worker.guard.screening_sql > sql/screened_terms.sql
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable

from worker.guard import screening

HEADER = """\
-- What may not be asked for, from worker/guard/guardrails.toml.
-- Not edited: python -m worker.guard.screening_sql writes it.

delete from worker.screened_terms;
delete from worker.allowed_phrases;
delete from worker.screening_rules;
"""


def render() -> str:
    """Return the whole file."""
    return "\n".join([HEADER, _rules(), *_terms(), *_allowed_phrases()])


def _rules() -> str:
    rows = [f"  ({_text(rule.id)}, {_text(rule.screens)}, {_text(rule.asks)})" for rule in screening.rules().values()]
    return "insert into worker.screening_rules (id, screens, asks) values\n" + ",\n".join(rows) + ";\n"


def _terms() -> Iterable[str]:
    """Yield one INSERT for the words of a rule and one for its phrases. Emoji are left to the worker."""
    for rule in screening.rules().values():
        for is_phrase in (False, True):
            terms = [term for term in screening.terms() if (term.rule, term.is_phrase) == (rule, is_phrase)]
            letters = [term.letters for term in terms if term.letters.isascii()]
            if letters:
                yield (
                    "insert into worker.screened_terms (screens, letters, is_phrase, rule_id)\n"
                    f"select {_text(rule.screens)}, letters, {str(is_phrase).lower()}, {_text(rule.id)} "
                    f"from regexp_split_to_table(\n{_wrapped(letters)}, '[[:space:]]+') letters;\n"
                )


def _allowed_phrases() -> Iterable[str]:
    for kind in screening.screens():
        phrases = {_DIGITS_EDGE.sub(" ", phrase).replace(" ", "_") for phrase in screening.allowed_phrases(kind)}
        yield (
            "insert into worker.allowed_phrases (screens, phrase)\n"
            f"select {_text(kind)}, replace(phrase, '_', ' ') from regexp_split_to_table(\n"
            f"{_wrapped(sorted(phrases))}, '[[:space:]]+') phrase;\n"
        )


_DIGITS_EDGE = re.compile("(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])")
"""As `worker.fold_prompt` separates "126p"."""


def _wrapped(items: list[str]) -> str:
    """Return items with white space between, as one literal."""
    return _text(textwrap.fill(" ".join(items), 118, break_long_words=False, break_on_hyphens=False))


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"


if __name__ == "__main__":
    sys.stdout.write(render())

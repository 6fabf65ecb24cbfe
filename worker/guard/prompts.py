"""Screens all the texts of a job before anything is fetched for it; `docs/guardrails.md` says what is blocked and why.

The database screens requests when they are inserted. Here everything is screened again, as it is when the job starts:
presets, trigger words and captions merged, and what a retry contains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.errors import PromptBlocked
from worker.guard import screening


@dataclass(frozen=True)
class Text:
    """Words of a job that reach a model, and the rules that screen them."""

    what: str
    """Names them to the app's user without quoting them: "the prompt"."""
    words: str
    screens: screening.Kind = "prompt"


def require(texts: Iterable[Text]) -> None:
    """Raises PromptBlocked for the first text that breaks a rule. The message never repeats it."""
    for text in texts:
        rule = screening.find(text.words, text.screens)
        if rule is not None:
            raise PromptBlocked(f"{text.what} asks for {rule.asks} (rule {rule.id}); change it and insert another job")

"""Screen all texts of a job before anything is downloaded for it; `docs/guardrails.md` says what is blocked and why.

The database screens requests when they are inserted. Here the texts are screened as the models read them, with presets,
trigger words and captions merged, and again at every retry.
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
    """Their name for the app's user, without a quotation: "the prompt"."""
    words: str
    screens: screening.Kind = "prompt"


def require(texts: Iterable[Text]) -> None:
    """Raise PromptBlocked for the first text that breaks a rule. The message never quotes it."""
    for text in texts:
        rule = screening.find(text.words, text.screens)
        if rule is not None:
            raise PromptBlocked(f"{text.what} asks for {rule.asks} (rule {rule.id}); change it and insert another job")

"""Trigger words that an encoder does not read, because they come after the last token that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from worker.ml.models import Base
from worker.trigger_words import end_of, normalized


def unread(base: Base, text: str, trigger_words: Sequence[str]) -> list[str]:
    """Return those of the words in a text that an encoder of the base does not read where they are."""
    text = normalized(text)
    ends = {word: end_of(word, text) for word in trigger_words}
    return [word for word, end in ends.items() if end is not None and base.family.cut_encoders(base.parts, text[:end])]


def with_words_read(base: Base, prompt: str, trigger_words: Sequence[str]) -> str:
    """Return the prompt with those words first that an encoder would not read where they are.

    Words that are put first may push others out of what is read: they follow.
    """
    first = unread(base, prompt, trigger_words)
    while pushed := unread(base, ", ".join([*first, prompt]), [word for word in trigger_words if word not in first]):
        first += pushed
    return ", ".join([*first, prompt])

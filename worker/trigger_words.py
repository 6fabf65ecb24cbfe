"""Find a trigger word in a prompt or a caption as text encoders read it: whatever its case and its Unicode form."""

from __future__ import annotations

import re
import unicodedata

_DOTTED_CAPITAL_I, _ITS_LOWER_CASE = "\u0130", "i\u0307"
"""The only letter whose lower case is two characters, which `re.IGNORECASE` does not compare."""


def normalized(text: str) -> str:
    """Return a text in NFC: a letter with an accent is one character, as tokenizers read it."""
    return unicodedata.normalize("NFC", text)


def pattern(trigger_word: str) -> str:
    """Return a regular expression for the word in a normalized text, to be used with `re.IGNORECASE`.

    As a whole word, except in scripts without upper case, such as Japanese, which write no spaces between words.
    """
    word = normalized(trigger_word).replace(_DOTTED_CAPITAL_I, _ITS_LOWER_CASE)
    has_borders = any(letter.isascii() or letter.lower() != letter.upper() for letter in word)
    letters = re.escape(word).replace(_ITS_LOWER_CASE, f"{_ITS_LOWER_CASE}?")  # an i matches the capital with its dot
    return rf"(?<!\w){letters}(?!\w)" if has_borders else letters


def end_of(trigger_word: str, text: str) -> int | None:
    """Return where the word first ends in a normalized text, None if the text does not name it."""
    found = re.search(pattern(trigger_word), text, re.IGNORECASE)
    return found.end() if found else None

"""The words that reach a model: request, preset, trigger words and captions, merged."""

from __future__ import annotations

import re
from collections.abc import Sequence

from worker.jobs.started_job import Preset


def merged_prompt(prompt: str, preset: Preset | None, trigger_words: Sequence[str]) -> str:
    """Merge preset and request into one prompt that contains the trigger word of every LoRA."""
    template = preset.prompt if preset and preset.prompt else "{prompt}"
    if "{prompt}" in template:
        merged = template.replace("{prompt}", prompt)
    else:
        merged = ", ".join(part for part in (prompt, template) if part)
    merged = merged.replace("{trigger}", " and ".join(trigger_words))
    missing = [word for word in trigger_words if not _names_trigger(merged, word)]
    return ", ".join([*missing, merged]) if merged else ", ".join(missing)


def merged_negative_prompt(negative_prompt: str | None, preset: Preset | None) -> str | None:
    """Merge the negative prompts of the request and its preset; None if neither has one."""
    parts = [part for part in (negative_prompt, preset.negative_prompt if preset else None) if part]
    return ", ".join(parts) or None


def caption(text: str | None, trigger_word: str) -> str:
    """Return a photo's caption, always with the trigger word."""
    if text is None:
        return f"a photo of {trigger_word}"
    return text if _names_trigger(text, trigger_word) else f"{trigger_word}, {text}"


def _names_trigger(text: str, trigger_word: str) -> bool:
    """Return True if a prompt or caption contains the trigger word, as a word."""
    return re.search(rf"\b{re.escape(trigger_word)}\b", text) is not None


def name_class(text: str, trigger_word: str, class_name: str) -> str:
    """Replace the trigger word, and an article and noun beside it, with the name of the class.

    "a photo of a ohwx person" is "a photo of a person", and so is "a photo of ohwx".
    """
    article, noun = r"(?:\b(?i:an?|the) )?" if _ARTICLE.match(class_name) else "", re.escape(class_name.split()[-1])
    return re.sub(rf"{article}\b{re.escape(trigger_word)}\b(?: {noun}\b)?", lambda _: class_name, text)


_ARTICLE = re.compile("(?:an?|the) ")

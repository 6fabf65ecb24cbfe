"""The words that reach a model: request, preset, trigger words and captions, merged."""

from __future__ import annotations

import re
from collections.abc import Sequence

from worker.jobs.started_job import Preset
from worker.trigger_words import end_of, normalized, pattern

MIN_BYTES_CUT = 75
"""No encoder cuts a shorter text: CLIP reads 75 tokens, each of at least a byte. In a longer one, the GPU process puts
trigger words first that an encoder would not read."""


def merged_prompt(prompt: str, preset: Preset | None, trigger_words: Sequence[str]) -> str:
    """Merge preset and request into one prompt that contains the trigger word of every LoRA."""
    template = preset.prompt if preset and preset.prompt else "{prompt}"
    if "{prompt}" in template:
        merged = template.replace("{prompt}", prompt)
    else:
        merged = ", ".join(part for part in (prompt, template) if part)
    merged = normalized(merged.replace("{trigger}", " and ".join(trigger_words)))
    missing = [word for word in trigger_words if end_of(word, merged) is None]
    return ", ".join([*missing, merged]) if merged else ", ".join(missing)


def merged_negative_prompt(negative_prompt: str | None, preset: Preset | None) -> str | None:
    """Merge the negative prompts of the request and its preset; None if neither has one."""
    parts = [part for part in (negative_prompt, preset.negative_prompt if preset else None) if part]
    return ", ".join(parts) or None


def caption(text: str | None, trigger_word: str, class_name: str) -> str:
    """Return a photo's caption, always with the trigger word; by default "photo of ohwx person", with the class."""
    if text is None:
        return f"photo of {trigger_word} {_ARTICLE.sub('', class_name)}"
    text = normalized(text)
    return text if end_of(trigger_word, text) is not None else f"{trigger_word}, {text}"


def name_class(text: str, trigger_word: str, class_name: str) -> str:
    """Replace the trigger word, and an article and noun beside it, with the name of the class.

    "a photo of a ohwx person" is "a photo of a person", and so is "a photo of ohwx".
    """
    article = r"(?:\b(?:an?|the) )?" if _ARTICLE.match(class_name) else ""
    noun = _ARTICLE.sub("", class_name)  # "blue mug", of which a caption may have the last word alone
    nouns = "|".join(re.escape(normalized(one)) for one in (noun, noun.split()[-1]))
    named = rf"{article}{pattern(trigger_word)}(?: (?:{nouns})\b)?"
    return re.sub(named, lambda _: class_name, normalized(text), flags=re.IGNORECASE)


_ARTICLE = re.compile("^(?:an?|the) ", re.IGNORECASE)

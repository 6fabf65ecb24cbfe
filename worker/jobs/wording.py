"""The words that reach a model: request, preset, trigger words and captions, merged."""

from __future__ import annotations

import re

from worker.jobs.lease import Photo, Preset, TrainedModel, names_trigger

TRIGGER_WORD = "subject"
"""For a training whose request and subject name none."""
CLASS_NAME = "a person"
"""The same of the class."""


def merged_prompt(prompt: str, preset: Preset | None, models: list[TrainedModel]) -> str:
    """Preset and request as one prompt that calls up every LoRA by its trigger word."""
    template = preset.prompt if preset and preset.prompt else "{prompt}"
    triggers = [model.trigger_word for model in models if model.trigger_word]
    if "{prompt}" in template:
        merged = template.replace("{prompt}", prompt)
    else:
        merged = ", ".join(part for part in (prompt, template) if part)
    merged = merged.replace("{trigger}", " and ".join(triggers))
    missing = [trigger for trigger in triggers if not names_trigger(merged, trigger)]
    return ", ".join([*missing, merged]) if merged else ", ".join(missing)


def merged_negative_prompt(negative_prompt: str | None, preset: Preset | None) -> str | None:
    """What neither the request nor its preset wants to see."""
    parts = [part for part in (negative_prompt, preset.negative_prompt if preset else None) if part]
    return ", ".join(parts) or None


def caption(photo: Photo, trigger_word: str) -> str:
    """What the picture shows, always with the word that is to call the person up."""
    if photo.caption is None:
        return f"a photo of {trigger_word}"
    return photo.caption if names_trigger(photo.caption, trigger_word) else f"{trigger_word}, {photo.caption}"


def name_class(text: str, trigger_word: str, class_name: str) -> str:
    """The text about anybody: the class's name for the trigger word, and for article and noun that may stand beside it.

    "a photo of a ohwx person" is "a photo of a person", and so is "a photo of ohwx".
    """
    article, noun = r"(?:\b(?i:an?|the) )?" if _ARTICLE.match(class_name) else "", re.escape(class_name.split()[-1])
    return re.sub(rf"{article}\b{re.escape(trigger_word)}\b(?: {noun}\b)?", lambda _: class_name, text)


_ARTICLE = re.compile("(?:an?|the) ")

"""Captions as the encoders read them: with the trigger word where they see it, and a report of those they cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worker.ml.models import Base
from worker.ml.photos.fitting import truncate_list
from worker.ml.train.batches import Photo
from worker.ml.unread_words import unread


@dataclass(frozen=True)
class CaptionsCut:
    """An encoder reads only the beginning of these captions; a trigger word beyond that was put first."""

    photos: tuple[Path, ...]
    summary: str
    """For a person: how many of how many, which encoders, and the first few names."""


def readable(
    base: Base, photos: Sequence[Photo], trigger_word: str | None, class_name: str | None
) -> tuple[list[Photo], CaptionsCut | None]:
    """Return the photos, each with the trigger word where every encoder reads it, and which captions are cut.

    Else a training would teach the encoder that reads less the opposite: the person under the words of the class.
    """
    moved = [
        _named_first(photo, trigger_word, class_name)
        if trigger_word and unread(base, photo.caption, [trigger_word])
        else photo
        for photo in photos
    ]
    cut = {photo.path: base.family.cut_encoders(base.parts, photo.caption) for photo in moved}
    cut = {path: encoders for path, encoders in cut.items() if encoders}
    if not cut:
        return moved, None
    encoders = " and ".join(sorted({name for names in cut.values() for name in names}))
    names = truncate_list([path.name for path in cut])
    summary = (
        f"{len(cut)} of {len(photos)} captions are longer than {encoders} reads, which ignores their ends: {names}"
    )
    return moved, CaptionsCut(tuple(cut), summary)


def _named_first(photo: Photo, trigger_word: str, class_name: str | None) -> Photo:
    of_class = photo.class_caption
    if of_class is not None and class_name:
        of_class = f"{class_name}, {of_class}"
    return replace(photo, caption=f"{trigger_word}, {photo.caption}", class_caption=of_class)

"""The photographs of a demo run: some for training, some held out for measuring on photographs not trained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from worker.demo.drawing.person import Person
from worker.demo.drawing.portrait import write_photos
from worker.ml.photos.files import DAMAGED

SUFFIXES = (".jpg", ".jpeg", ".png", ".heic", ".heif", ".webp")
FORMATS = ("JPEG", "PNG", "HEIF", "WEBP")
MIN_PHOTOS, MAX_PHOTOS = 6, 40
DRAWN_PHOTOS = 15
HOLD_OUT_EVERY = 4


class PhotosUnusable(ValueError):
    """The folder of photographs cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Photo:
    """A photograph on disk; `caption` is None for one without a description."""

    path: Path
    caption: str | None


@dataclass(frozen=True)
class Album:
    """Photographs of one person."""

    training: list[Photo]
    held_out: list[Photo]

    @property
    def photos(self) -> list[Photo]:
        return [*self.training, *self.held_out]


def draw_album(person: Person, folder: Path) -> Album:
    """Draw photographs of a person. All people are drawn in the same scenes, so that only the person differs."""
    taken = write_photos(person, folder, DRAWN_PHOTOS)
    return _divide([Photo(photo.path, photo.caption) for photo in taken])


def read_album(folder: Path) -> Album:
    """Read the user's own pictures, at most MAX_PHOTOS of them in the order of their names. Other files are ignored.

    Raises PhotosUnusable: too few, or a file with the name of a picture that is not one.
    """
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if len(paths) < MIN_PHOTOS:
        raise PhotosUnusable(
            f"{folder} holds {len(paths)} pictures (JPEG, PNG, HEIC or WebP); training and measuring "
            f"need at least {MIN_PHOTOS} of the same person"
        )
    for path in paths[:MAX_PHOTOS]:
        _check(path)
    return _divide([Photo(path, None) for path in paths[:MAX_PHOTOS]])


def _divide(photos: list[Photo]) -> Album:
    held_out = photos[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
    return Album([photo for photo in photos if photo not in held_out], held_out)


def _check(path: Path) -> None:
    """Raise PhotosUnusable unless this is a whole picture."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as picture:
            warnings.simplefilter("ignore")  # a photograph of 100 megapixels is not an attack
            picture.load()
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise PhotosUnusable(f"{path} is not a readable picture: remove it or export it again") from error

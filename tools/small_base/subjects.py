"""People that the base was not trained on, as the worker receives them: photographs, a trigger word, a LoRA."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tools.small_base.names import any_name
from tools.small_base.people import FRAME_WORDS, HAIR_WORDS, SKIN_WORDS, random_subject
from worker.demo.config import SMALL
from worker.demo.drawing.canvas import Colour
from worker.demo.drawing.person import Person, close_up, scenes
from worker.demo.drawing.portrait import draw
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import LoraConfig, Run, TrainedLora, train

PHOTOS = 12
PHOTO_SIZE = (448, 576)
SETTINGS = LoraConfig(
    steps=int(SMALL.training["steps"]),
    rank=int(SMALL.training["rank"]),
    learning_rate=SMALL.training["learning_rate"],
    resolutions=(int(SMALL.training["resolution"]),),
    batch_size=8,
    preservation=0.5,
    caption_dropout=0.05,
    seed=0,
)
"""The demo's settings: those of its request, and the defaults in the base's row."""


@dataclass(frozen=True)
class Subject:
    """A person, and the words for the traits that stay the same in every picture (`Shown`'s names)."""

    name: str
    person: Person
    trigger: str
    traits: dict[str, str]


def subjects() -> list[Subject]:
    """Return the demo's two people, and a random one."""
    chance = random.Random("subjects")
    person, _, _ = random_subject(chance)
    people = {"example": Person.example(), "other": Person.other(), "random": person}
    return [Subject(name, person, any_name(chance), _traits(person)) for name, person in people.items()]


def _traits(person: Person) -> dict[str, str]:
    traits = {
        "noun": "woman" if person.lashes else "man",
        "skin": _nearest(person.skin, SKIN_WORDS),
        "style": person.hair_style,
        "glasses": person.glasses or "none",
        "beard": person.beard or "none",
    }
    if person.hair_style != "bald":
        traits["hair"] = _nearest(person.hair, HAIR_WORDS)
    if person.glasses:
        traits["frame"] = _nearest(person.frame, {word: (colour,) for word, colour in FRAME_WORDS.items()})
    return traits


def _nearest(colour: Colour, words: dict[str, tuple[Colour, ...]]) -> str:
    def far(word: str) -> float:
        return min(sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)) for other in words[word])

    return min(words, key=far)


def photographed(subject: Subject, folder: Path) -> list[Photo]:
    """Draw photos of the subject, with the captions that the worker would train with."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, scene in enumerate(scenes(PHOTOS, seed=1), start=1):
        path = folder / f"{number:02}.png"
        draw(subject.person, close_up(subject.person, scene), PHOTO_SIZE).save(path)
        photos.append(Photo(path, f"{subject.trigger}, {scene.caption}", f"a person, {scene.caption}"))
    return photos


def trained_lora(base: Base, subject: Subject, folder: Path, config: LoraConfig = SETTINGS) -> TrainedLora:
    """Train the subject's LoRA with the worker's own loop."""
    folder.mkdir(parents=True, exist_ok=True)
    training = train(base, photographed(subject, folder / "photos"), config, Run(folder))
    while True:
        try:
            next(training)
        except StopIteration as end:
            return end.value


def settings_in_words(config: LoraConfig = SETTINGS) -> dict[str, object]:
    return asdict(replace(config, seed=0)) | {"photos": PHOTOS}

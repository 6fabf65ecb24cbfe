"""Measures the shipped base: a classifier reads pictures that the worker's own code draws.

Prompts: how often a picture shows what its prompt asks for. Likeness: the share of a person's attributes that pictures
show with the person's LoRA, without it, and with another person's. Leak: the same with the LoRA, for a prompt that asks
for "a person".
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.small_base.classifier import ATTRIBUTES, NOT_THERE, Reading, labels
from tools.small_base.drawings import HELD_OUT, PORTRAIT, WORK, load
from tools.small_base.people import Shown, random_subject
from tools.small_base.subjects import Subject, settings_in_words, subjects, trained_lora
from tools.small_base.text import full_caption
from worker.demo.config import SMALL_BASE
from worker.demo.drawing.person import Scene
from worker.ml import models
from worker.ml.draw import generate
from worker.ml.draw.generate import LoraUse, Picture, PictureRequest
from worker.ml.models import Base

FIGURES = Path(__file__).parent / "figures.json"
FOLDER = WORK / "measured"
STEPS, GUIDANCE = 20, 3.0
SCENES = (
    Scene(clothes="t-shirt", colour="red", setting="park", light="soft light"),
    Scene(clothes="hoodie", colour="blue", setting="beach", light="evening sun", expression="smiling"),
    Scene(clothes="shirt", colour="white", setting="library", light="soft light"),
    Scene(clothes="turtleneck", colour="green", setting="studio", light="soft light", expression="smiling"),
    Scene(clothes="blazer", colour="black", setting="city at night", light="lamplight"),
    Scene(clothes="striped jumper", colour="yellow", setting="mountains", light="sun from the left"),
)


@dataclass(frozen=True)
class Drawn:
    """A picture, the requested scene, and what the classifier sees."""

    pixels: np.ndarray
    scene: Scene
    seen: dict[str, str]


class Artist:
    """Draws with the worker's code."""

    def __init__(self, base: Base) -> None:
        self._base, self._reading = base, Reading()

    def draw(self, prompt: str, seed: int, lora: Path | None = None) -> np.ndarray:
        request = PictureRequest(
            prompt=prompt,
            negative_prompt=None,
            width=PORTRAIT[0],
            height=PORTRAIT[1],
            steps=STEPS,
            guidance=GUIDANCE,
            seed=seed,
            loras=(LoraUse(lora),) if lora else (),
        )
        (picture,) = [event for event in generate.generate(self._base, request) if isinstance(event, Picture)]
        return picture.pixels

    def read(self, pixels: np.ndarray) -> dict[str, str]:
        return self._reading([pixels])[0]

    def series(self, who: str, count: int, lora: Path | None = None) -> list[Drawn]:
        """Draw `count` pictures of `who`, each with its own seed, in all the scenes."""
        drawn = []
        for seed in range(count):
            scene = SCENES[seed % len(SCENES)]
            pixels = self.draw(f"{who}, {scene.caption}", seed, lora)
            drawn.append(Drawn(pixels, scene, self.read(pixels)))
        return drawn


def share_of(traits: dict[str, str], drawn: Sequence[Drawn]) -> float:
    """Return the share of a person's attributes that the pictures show."""
    return float(np.mean([each.seen[name] == value for each in drawn for name, value in traits.items()]))


def by_trait(traits: dict[str, str], drawn: Sequence[Drawn]) -> dict[str, float]:
    return {name: float(np.mean([each.seen[name] == value for each in drawn])) for name, value in traits.items()}


def scene_share(drawn: Sequence[Drawn]) -> float:
    """Return the share of the requested scene (place, clothes, their colour) that the pictures show."""
    asked = [
        (each.seen[name] == getattr(each.scene, name)) for each in drawn for name in ("setting", "clothes", "colour")
    ]
    return float(np.mean(asked))


def _empty() -> dict[str, list[bool]]:
    return {name: [] for name in ATTRIBUTES}


def measure_classifier() -> dict[str, float]:
    """Return the classifier's accuracy on held-out drawings."""
    reading, right = Reading(), _empty()
    for number in HELD_OUT:
        shard = load(number)
        for shown, seen in zip(shard.shown, reading(list(shard.pixels)), strict=True):
            for (name, values), label in zip(ATTRIBUTES.items(), labels(shown), strict=True):
                if label != NOT_THERE:
                    right[name].append(seen[name] == values[label])
    return {name: float(np.mean(found)) for name, found in right.items()}


def measure_prompts(artist: Artist, count: int) -> dict[str, float]:
    """Return how often each attribute of a prompt is in the picture; the prompts name every attribute."""
    chance, right = random.Random("prompts"), _empty()
    pictures = []
    for seed in range(count):
        shown: Shown = random_subject(chance)[2]
        pixels = artist.draw(full_caption(shown), seed)
        pictures.append(pixels)
        seen = artist.read(pixels)
        for (name, values), label in zip(ATTRIBUTES.items(), labels(shown), strict=True):
            if label != NOT_THERE:
                right[name].append(seen[name] == values[label])
    write_sheet("prompts.png", [pictures[at : at + 10] for at in range(0, min(count, 40), 10)])
    return {name: float(np.mean(found)) for name, found in right.items()}


def measure_likeness(base: Base, artist: Artist, count: int) -> dict[str, dict[str, object]]:
    """Return, for each subject, the share of its attributes in pictures drawn in different ways."""
    people = subjects()
    loras = {subject.name: _lora(base, subject) for subject in people}
    with_lora = {s.name: artist.series(f"photo of {s.trigger}", count, loras[s.name]) for s in people}
    leaking = {s.name: artist.series("photo of a person", count, loras[s.name]) for s in people}
    of_class = artist.series("photo of a person", count)
    figures = {}
    for subject in people:
        without = artist.series(f"photo of {subject.trigger}", count)
        others = [each for other in people if other is not subject for each in with_lora[other.name]]
        own, traits = with_lora[subject.name], subject.traits
        figures[subject.name] = {
            "traits": traits,
            "own LoRA": share_of(traits, own),
            "no LoRA": share_of(traits, without),
            "another's LoRA": share_of(traits, others),
            "own LoRA, 'a person'": share_of(traits, leaking[subject.name]),
            "no LoRA, 'a person'": share_of(traits, of_class),
            "scene, own LoRA": scene_share(own),
            "scene, no LoRA": scene_share(without),
            "by trait, own LoRA": by_trait(traits, own),
            "by trait, own LoRA, 'a person'": by_trait(traits, leaking[subject.name]),
            "by trait, no LoRA, 'a person'": by_trait(traits, of_class),
        }
        photos = [np.asarray(Image.open(path).resize(PORTRAIT)) for path in sorted(_folder(subject).glob("photos/*"))]
        rows = [without, own, leaking[subject.name], of_class]
        write_sheet(f"{subject.name}.png", [photos[:10], *([each.pixels for each in row[:10]] for row in rows)])
    return figures


def _folder(subject: Subject) -> Path:
    return FOLDER / subject.name


def _lora(base: Base, subject: Subject) -> Path:
    started = time.monotonic()
    lora = trained_lora(base, subject, _folder(subject))
    print(f"LoRA of {subject.name}: {time.monotonic() - started:.0f} s, loss {lora.final_loss:.3f}", flush=True)
    return lora.path


def write_sheet(name: str, rows: Sequence[Sequence[np.ndarray]]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = [np.concatenate(list(row), axis=1) for row in rows if row]
    width = min(line.shape[1] for line in lines)
    Image.fromarray(np.concatenate([line[:, :width] for line in lines])).save(FOLDER / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=54, help="number of pictures for each figure")
    count = parser.parse_args().seeds
    torch.set_num_threads(1)
    base = models.load(SMALL_BASE / "base", device="cpu")
    artist = Artist(base)
    figures = {
        "seeds": count,
        "LoRA settings": settings_in_words(),
        "classifier on held-out drawings": measure_classifier(),
        "prompts": measure_prompts(artist, count),
    }
    figures["likeness"] = measure_likeness(base, artist, count)
    FIGURES.write_text(json.dumps(_rounded(figures), indent=1) + "\n")
    print(FIGURES.read_text())


def _rounded(figures: object) -> object:
    if isinstance(figures, dict):
        return {name: _rounded(value) for name, value in figures.items()}
    return round(figures, 3) if isinstance(figures, float) else figures


if __name__ == "__main__":
    main()

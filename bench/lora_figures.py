"""Figures of a LoRA on the small trained base: what a classifier reads in its pictures, and losses on unseen photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.small_base.classifier import Reading
from tools.small_base.measure import SCENES
from tools.small_base.subjects import PHOTO_SIZE, PHOTOS, Subject
from worker.demo.config import SMALL_BASE
from worker.demo.drawing.person import close_up, scenes
from worker.demo.drawing.portrait import draw
from worker.demo.held_out_loss import held_out_loss
from worker.ml import models
from worker.ml.adapters import attach
from worker.ml.draw.generate import LoraUse, Picture, PictureRequest, generate
from worker.ml.families.lora import load_fitting
from worker.ml.train.batches import Batch, Photo, encode_captions, encode_photos
from worker.ml.train.loss import sample_losses
from worker.ml.train.seeds import seeded

SIZES = ((112, 144), (128, 128))  # width, height: those that the base was trained at
RESOLUTION = 128
STEPS, GUIDANCE = 12, 3.0
HELD_OUT_PHOTOS, TIMES = 6, 16
OF_A_PERSON = ("noun", "skin", "hair", "style", "glasses", "beard")


@dataclass(frozen=True)
class Series:
    """Pictures, in the order of their seeds, and what the classifier sees in them."""

    pixels: list[np.ndarray]
    seen: list[dict[str, str]]

    def share_of(self, traits: Mapping[str, str]) -> float:
        """Return the share of these traits that the pictures show."""
        return float(np.mean([seen[name] == value for seen in self.seen for name, value in traits.items()]))

    def by_trait(self, traits: Mapping[str, str]) -> dict[str, float]:
        return {name: self.share_of({name: value}) for name, value in traits.items()}

    def scene_share(self) -> float:
        """Return the share of the requested places, clothes and their colours that the pictures show."""
        asked = [
            seen[name] == getattr(SCENES[seed % len(SCENES)], name)
            for seed, seen in enumerate(self.seen)
            for name in ("setting", "clothes", "colour")
        ]
        return float(np.mean(asked))

    def differing(self, other: Series) -> float:
        """Return the share of the person's traits that differ from another series, picture by picture."""
        pairs = zip(self.seen, other.seen, strict=True)
        return float(np.mean([a[name] != b[name] for a, b in pairs for name in OF_A_PERSON]))


class LoraFigures:
    """Draws with LoRAs, and measures them."""

    def __init__(self, people: Sequence[Subject], seeds: int, folder: Path) -> None:
        """Draw the pictures of "a person" without a LoRA, and photos of all people that no LoRA is trained on."""
        self.base = models.load(SMALL_BASE / "base", device="cpu")
        self._seeds, self._reading = seeds, Reading()
        self._unseen = {person.name: _unseen_photos(person, folder / person.name) for person in people}
        self._of_class = self._drawn("a person", None)

    def of_base(self, person: Subject) -> dict[str, float]:
        """Return what a LoRA's figures compare with."""
        return {"class": self._of_class.share_of(person.traits), "held_out": self._held_out(person, None)}

    def of_lora(self, lora: Path, person: Subject) -> dict[str, object]:
        """Return the figures of a LoRA of this person, and write a sheet of pictures beside its file."""
        own, of_class = self._drawn(person.trigger, lora), self._drawn("a person", lora)
        write_sheet(lora.with_suffix(".png"), [own, of_class, self._of_class])
        return {
            "own": own.share_of(person.traits),
            "bleeding": of_class.share_of(person.traits) - self._of_class.share_of(person.traits),
            "altered": of_class.differing(self._of_class),
            "scene": own.scene_share(),
            "own by trait": own.by_trait(person.traits),
            **self.losses(lora, person),
        }

    def losses(self, lora: Path, person: Subject) -> dict[str, float]:
        return {"held_out": self._held_out(person, lora), "preserved": self._preserved(person, lora)}

    def _drawn(self, who: str, lora: Path | None) -> Series:
        """Draw `photo of {who}` in all scenes, alternately portraits and squares."""
        pixels = []
        for seed in range(self._seeds):
            width, height = SIZES[seed // len(SCENES) % len(SIZES)]
            request = PictureRequest(
                prompt=f"photo of {who}, {SCENES[seed % len(SCENES)].caption}",
                negative_prompt=None,
                width=width,
                height=height,
                steps=STEPS,
                guidance=GUIDANCE,
                seed=seed,
                loras=(LoraUse(lora),) if lora else (),
            )
            pixels += [event.pixels for event in generate(self.base, request) if isinstance(event, Picture)]
        return Series(pixels, self._reading(pixels))

    def _held_out(self, person: Subject, lora: Path | None) -> float:
        return held_out_loss(self.base, self._unseen[person.name], lora, draws=TIMES, resolution=RESOLUTION)

    @torch.no_grad()
    def _preserved(self, person: Subject, lora: Path) -> float:
        """Return the mean squared distance of predictions with and without the LoRA, for "a person" on other people."""
        base = self.base
        others = [photo for name, photos in self._unseen.items() if name != person.name for photo in photos[:3]]
        samples, _ = encode_photos(base, others, RESOLUTION)
        texts = encode_captions(base, [str(photo.class_caption) for photo in others])
        losses = []
        with attach.attached(base.denoiser, [(load_fitting(lora, base.family.name, base.denoiser), 1.0)]):
            for number, sample in enumerate(samples):
                text = texts[str(sample.photo.class_caption)]
                batch = Batch(
                    latents=torch.cat([sample.latents] * TIMES),
                    noise=torch.randn((TIMES, *sample.latents.shape[1:]), generator=seeded("preserved", number)),
                    time=base.family.even_times(base.parts, TIMES),
                    text=text.join([text] * (TIMES - 1)),
                    grid=sample.grid,
                    preserved=torch.ones(TIMES, dtype=torch.bool),
                )
                losses.append(float(sample_losses(base, batch).mean()))
        return float(np.mean(losses))


def _unseen_photos(person: Subject, folder: Path) -> list[Photo]:
    """Draw photos of a person in scenes that `photographed` does not use."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, scene in enumerate(scenes(PHOTOS + HELD_OUT_PHOTOS, seed=1)[PHOTOS:], start=1):
        path = folder / f"{number:02}.png"
        draw(person.person, close_up(person.person, scene), PHOTO_SIZE).save(path)
        photos.append(Photo(path, f"{person.trigger}, {scene.caption}", f"a person, {scene.caption}"))
    return photos


def write_sheet(path: Path, rows: Sequence[Series]) -> None:
    """Write the first six portraits and squares of each series, a line each."""
    lines = [np.concatenate([_padded(pixels) for pixels in row.pixels[:12]], axis=1) for row in rows]
    Image.fromarray(np.concatenate(lines)).save(path)


def _padded(pixels: np.ndarray) -> np.ndarray:
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, 144 - height), (0, 128 - width), (0, 0)))

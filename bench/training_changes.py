"""Measures changes to LoRA training on the small trained base: more layers, a schedule of rates, EMA, several sizes.

Each variant trains LoRAs with the worker's own loop, of people whom the base does not know. Figures of each LoRA:

- own: the share of the person's traits that a classifier reads in pictures asked for with the trigger word
- class: the same in pictures of "a person", and `bleeding`: how much more than in the base's own pictures
- altered: the share of the traits of "a person" that differ from the base's picture of the same seed
- held_out: the loss on photos of the person that were not trained on; its value without a LoRA is in `base`
- preserved: the distance between predictions with and without the LoRA for "a person", on photos of other people
- cpu_s: processor seconds of a training step

Results are written after each LoRA, and a run continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from tools.small_base.classifier import Reading
from tools.small_base.measure import SCENES
from tools.small_base.subjects import PHOTO_SIZE, PHOTOS, SETTINGS, Subject, photographed, subjects
from worker.demo.config import SMALL_BASE
from worker.demo.drawing.person import close_up, scenes
from worker.demo.drawing.portrait import draw
from worker.demo.held_out_loss import held_out_loss
from worker.ml import models
from worker.ml.adapters import files as lora_files
from worker.ml.families import flux1
from worker.ml.models import Base
from worker.ml.train import batches, train_lora
from worker.ml.train.batches import Batch, Photo, Sample, seeded
from worker.ml.train.config import LoraConfig

RESULTS = Path(__file__).parent / "results" / "training-changes.json"
WORK = Path(__file__).parent / "work"
SIZES = ((112, 144), (128, 128))  # width, height
STEPS, GUIDANCE = 12, 3.0
PICTURES_AT_ONCE = 9
HELD_OUT_PHOTOS, TIMES = 6, 16
ON_THE_WAY = (100, 150, 200)
"""Steps after which the two losses are measured too: does a change learn more, or only sooner?"""
PORTRAIT_TRAITS = ("noun", "skin", "hair", "style", "glasses", "beard")


@dataclass(frozen=True)
class Variant:
    """A way to train. `warmup` and `decay` are shares of the steps; the plain loop has neither."""

    single_mlp: bool = False  # LoRA on the single blocks' feed-forward layers too
    warmup: float = 0.0
    decay: float = 0.0
    peak: float = 1.0  # of the demo's learning rate
    rungs: tuple[int | tuple[int, int], ...] = (SETTINGS.resolution,)  # trained in turn; (height, width): crops
    averaged: bool = True  # measure the average of the weights too
    steps: int = SETTINGS.steps or 0

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate for a step counted from 0."""
        warmup, decay = int(self.warmup * self.steps), int(self.decay * self.steps)
        rising = (step + 1) / warmup if warmup else 1.0
        falling = (self.steps - step) / decay if decay else 1.0
        return self.peak * min(1.0, rising, falling)


SCHEDULE = {"warmup": 0.05, "decay": 0.2}
VARIANTS = {
    "before": Variant(),
    "schedule": Variant(**SCHEDULE),
    "targets": Variant(single_mlp=True, averaged=False),
    "targets+schedule": Variant(single_mlp=True, averaged=False, **SCHEDULE),
    "schedule, 0.7 x rate": Variant(peak=0.7, averaged=False, **SCHEDULE),
    "targets+schedule, 0.7 x rate": Variant(single_mlp=True, peak=0.7, averaged=False, **SCHEDULE),
    "96+128+schedule": Variant(rungs=(96, 128), averaged=False, **SCHEDULE),
    "96+schedule": Variant(rungs=(96,), averaged=False, **SCHEDULE),
    "portrait+square+schedule": Variant(rungs=((144, 112), (128, 128)), averaged=False, **SCHEDULE),
}
"""Those that are averaged give two LoRAs: the last weights, and their exponential moving average (`…, EMA`)."""


class RecordingAdamW(torch.optim.AdamW):
    """The worker's AdamW, with a variant's rates, and an average of the weights on the side."""

    def __init__(self, lora: Mapping[str, torch.nn.Parameter], config: LoraConfig, variant: Variant) -> None:
        super().__init__(lora.values(), lr=config.learning_rate, weight_decay=train_lora.WEIGHT_DECAY, fused=True)
        self.lora, self.variant, self.done = lora, variant, 0
        self.full_rate = config.learning_rate
        self.average = self._weights()
        self.on_the_way: dict[int, dict[str, torch.Tensor]] = {}

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weights.detach().clone() for name, weights in self.lora.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.param_groups[0]["lr"] = self.full_rate * self.variant.rate(self.done)
        super().step(closure)
        keep = min(0.99, (1 + self.done) / (10 + self.done))
        for name, weights in self.lora.items():
            self.average[name].lerp_(weights, 1 - keep)
        self.done += 1
        if self.done in ON_THE_WAY:
            self.on_the_way[self.done] = self._weights()


@contextmanager
def loop_of(base: Base, variant: Variant) -> Iterator[list[RecordingAdamW]]:
    """Make the worker's loop train as this variant does; the list receives its optimizer."""
    targets = list(flux1.LORA_TARGETS)
    if variant.single_mlp:
        count = base.parts.transformer.config.num_single_layers
        layers = [f"single_transformer_blocks.{i}.{name}" for i in range(count) for name in ("proj_mlp", "proj_out")]
        targets = [*targets, *layers]  # whole names: "proj_out" alone is the last layer of the transformer too
    made: list[RecordingAdamW] = []

    def optimizer(_: Base, lora: Mapping[str, torch.nn.Parameter], config: LoraConfig) -> RecordingAdamW:
        made.append(RecordingAdamW(lora, config, variant))
        return made[-1]

    encode, members, buckets, rungs = train_lora.encode_photos, batches._members, batches.buckets, variant.rungs

    def sizes_of(rung: int | tuple[int, int], step: int) -> list[tuple[int, int]]:
        return buckets(rung, step) if isinstance(rung, int) else [rung]

    def encode_at_rungs(base: Base, photos: Sequence[Photo], _: int) -> tuple[list[Sample], list[Exception]]:
        with mock.patch.object(batches, "buckets", sizes_of):
            return [sample for rung in rungs for sample in encode(base, photos, rung)[0]], []

    def members_of_rung(samples: Sequence[Sample], config: LoraConfig, step: int) -> list[int]:
        count = len(samples) // len(rungs)
        first = count * (step % len(rungs))
        chosen = members(samples[first : first + count], config, step // len(rungs))
        return [first + i for i in chosen]

    with (
        mock.patch.object(flux1, "LORA_TARGETS", targets),
        mock.patch.object(train_lora, "_optimizer", optimizer),
        mock.patch.object(train_lora, "encode_photos", encode_at_rungs),
        mock.patch.object(batches, "_members", members_of_rung),
    ):
        yield made


def trained(base: Base, variant: Variant, photos: Sequence[Photo], seed: int, folder: Path) -> float:
    """Train the LoRAs `lora.safetensors` and `ema.safetensors` in a folder; return processor seconds a step."""
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(SETTINGS, seed=seed, steps=variant.steps)
    first = 0.0
    with loop_of(base, variant) as made:
        training = train_lora.train(base, photos, config, workdir=folder, metadata={}, checkpoint_every_s=1e9)
        for event in training:
            if isinstance(event, train_lora.Step) and event.index == 1:
                first = time.process_time()
    seconds = (time.process_time() - first) / (variant.steps - 1)
    (optimizer,) = made
    lora_files.write(folder / "ema.safetensors", optimizer.average, {})
    for step, weights in optimizer.on_the_way.items():
        lora_files.write(folder / f"{step}.safetensors", weights, {})
    return seconds


@dataclass(frozen=True)
class Series:
    """Pictures, and what the classifier sees in them."""

    pixels: list[np.ndarray]
    seen: list[dict[str, str]]

    def share_of(self, traits: Mapping[str, str]) -> float:
        return float(np.mean([seen[name] == value for seen in self.seen for name, value in traits.items()]))

    def by_trait(self, traits: Mapping[str, str]) -> dict[str, float]:
        return {name: float(np.mean([seen[name] == value for seen in self.seen])) for name, value in traits.items()}

    def by_size(self, traits: Mapping[str, str]) -> dict[str, float]:
        """Return the share of the traits in the pictures of each size."""
        groups: dict[str, list[bool]] = {f"{width}x{height}": [] for width, height in SIZES}
        for pixels, seen in zip(self.pixels, self.seen, strict=True):
            groups[f"{pixels.shape[1]}x{pixels.shape[0]}"] += [seen[name] == value for name, value in traits.items()]
        return {size: float(np.mean(found)) for size, found in groups.items()}

    def scene_share(self) -> float:
        """Return the share of the requested place, clothes and their colour that the pictures show."""
        asked = [
            seen[name] == getattr(SCENES[seed % len(SCENES)], name)
            for seed, seen in enumerate(self.seen)
            for name in ("setting", "clothes", "colour")
        ]
        return float(np.mean(asked))

    def differing(self, other: Series) -> float:
        """Return the share of the person's traits that differ from the pictures of another series."""
        pairs = zip(self.seen, other.seen, strict=True)
        return float(np.mean([a[name] != b[name] for a, b in pairs for name in PORTRAIT_TRAITS]))


def drawn(base: Base, who: str, seeds: int) -> Series:
    """Draw `photo of {who}` in all scenes, alternately portraits and squares, with the LoRAs that are in place."""
    size_of = {seed: SIZES[seed // len(SCENES) % len(SIZES)] for seed in range(seeds)}
    pixels: dict[int, np.ndarray] = {}
    for size in SIZES:
        of_size = [seed for seed in range(seeds) if size_of[seed] == size]
        for at in range(0, len(of_size), PICTURES_AT_ONCE):
            group = of_size[at : at + PICTURES_AT_ONCE]
            prompts = [f"photo of {who}, {SCENES[seed % len(SCENES)].caption}" for seed in group]
            pixels |= zip(group, _pictures(base, prompts, group, size), strict=True)
    ordered = [pixels[seed] for seed in range(seeds)]
    return Series(ordered, _reading()(ordered))


@cache
def _reading() -> Reading:
    return Reading()


@torch.no_grad()
def _pictures(base: Base, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int]) -> list[np.ndarray]:
    """Draw pictures of one size in one batch, each from its own seed, as `worker.ml.draw` draws them one by one."""
    architecture, parts = base.architecture, base.parts
    token_px = architecture.token_px(parts)
    grid = (size[1] // token_px, size[0] // token_px)
    text = architecture.encode_prompts(parts, [""] * len(prompts) + list(prompts), base.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sampler = architecture.sampler(parts, grid, STEPS, base.device, generators[0])
    latents = torch.cat([architecture.first_noise(parts, sampler, grid, each, torch.float32) for each in generators])
    for timestep in sampler.timesteps:
        scaled, time_now = architecture.denoiser_input(sampler, torch.cat([latents] * 2), timestep)
        against, wanted = architecture.predict(parts, scaled, time_now.expand(len(scaled)), text, grid, 1.0).chunk(2)
        latents = sampler.step(against + GUIDANCE * (wanted - against), timestep, latents)
    decoded = [architecture.decode_picture(parts, one[None], grid)[0] for one in latents]
    return [(pixels * 255).round().byte().permute(1, 2, 0).numpy() for pixels in decoded]


def held_out_photos(subject: Subject) -> list[Photo]:
    """Draw photos of the subject in scenes that are not trained on."""
    folder = WORK / "held out" / subject.name
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, scene in enumerate(scenes(PHOTOS + HELD_OUT_PHOTOS, seed=1)[PHOTOS:], start=1):
        path = folder / f"{number:02}.png"
        if not path.exists():
            draw(subject.person, close_up(subject.person, scene), PHOTO_SIZE).save(path)
        photos.append(Photo(path, f"{subject.trigger}, {scene.caption}", f"a person, {scene.caption}"))
    return photos


@torch.no_grad()
def preservation_loss(base: Base, others: Sequence[Photo], lora: Path) -> float:
    """Return the mean squared distance between predictions with and without the LoRA, for the class captions."""
    samples, _ = batches.encode_photos(base, others, SETTINGS.resolution)
    texts = batches.encode_captions(base, [str(photo.class_caption) for photo in others])
    losses = []
    with base.architecture.loras(base.parts, [(lora, 1.0)]):
        for i, sample in enumerate(samples):
            batch = Batch(
                latents=torch.cat([sample.latents] * TIMES),
                noise=torch.randn((TIMES, *sample.latents.shape[1:]), generator=seeded("preserved", i)),
                time=base.architecture.even_times(base.parts, TIMES),
                text=batches.stack([texts[str(sample.photo.class_caption)]] * TIMES),
                grid=sample.grid,
                preserved=torch.ones(TIMES, dtype=torch.bool),
            )
            losses.append(float(train_lora.sample_losses(base, batch).mean()))
    return float(np.mean(losses))


class Bench:
    """Measures LoRAs, and remembers what has been measured."""

    def __init__(self, base: Base, seeds: int) -> None:
        self._base, self._seeds = base, seeds
        self._people = {subject.name: subject for subject in subjects()}
        self._photos = {name: photographed(each, WORK / "photos" / name) for name, each in self._people.items()}
        self._of_class = drawn(base, "a person", seeds)
        self.figures = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"base": {}, "LoRAs": {}}

    def measure(self, name: str, subject_name: str, seed: int) -> None:
        """Train a variant for a subject with a seed of training, and measure its two LoRAs."""
        subject = self._people[subject_name]
        self._measure_base(subject)
        suffixes = {"lora": "", "ema": ", EMA"} if VARIANTS[name].averaged else {"lora": ""}
        keys = {file: f"{name}{suffix} | {subject_name} | {seed}" for file, suffix in suffixes.items()}
        if all(key in self.figures["LoRAs"] for key in keys.values()):
            return
        folder = WORK / name / f"{subject_name}-{seed}"
        seconds = trained(self._base, VARIANTS[name], self._photos[subject_name], seed, folder)
        for file, key in keys.items():
            figures = self._figures_of(folder / f"{file}.safetensors", subject)
            self._keep("LoRAs", key, figures | {"cpu_s": seconds})
        for step in ON_THE_WAY:
            self._keep("on the way", f"{keys['lora']} | {step}", self._losses(folder / f"{step}.safetensors", subject))

    def _measure_base(self, subject: Subject) -> None:
        if subject.name not in self.figures["base"]:
            loss = held_out_loss(self._base, held_out_photos(subject), None, draws=TIMES, resolution=128)
            self._keep("base", subject.name, {"class": self._of_class.share_of(subject.traits), "held_out": loss})

    def _figures_of(self, lora: Path, subject: Subject) -> dict[str, object]:
        with self._base.architecture.loras(self._base.parts, [(lora, 1.0)]):
            own = drawn(self._base, subject.trigger, self._seeds)
            of_class = drawn(self._base, "a person", self._seeds)
        write_sheet(lora.with_suffix(".png"), [own, of_class, self._of_class])
        traits = subject.traits
        return {
            "own": own.share_of(traits),
            "class": of_class.share_of(traits),
            "bleeding": of_class.share_of(traits) - self._of_class.share_of(traits),
            "altered": of_class.differing(self._of_class),
            "scene": own.scene_share(),
            "own by trait": own.by_trait(traits),
            "own by size": own.by_size(traits),
            **self._losses(lora, subject),
        }

    def _losses(self, lora: Path, subject: Subject) -> dict[str, float]:
        others = [photo for each in self._people.values() if each is not subject for photo in held_out_photos(each)[:3]]
        return {
            "held_out": held_out_loss(self._base, held_out_photos(subject), lora, draws=TIMES, resolution=128),
            "preserved": preservation_loss(self._base, others, lora),
        }

    def _keep(self, group: str, key: str, figures: Mapping[str, object]) -> None:
        self.figures.setdefault(group, {})[key] = _rounded(figures)
        self.figures["pictures"] = self._seeds
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(self.figures, indent=1) + "\n")
        print(key, json.dumps(self.figures[group][key]), flush=True)


def write_sheet(path: Path, rows: Sequence[Series]) -> None:
    """Write the first portraits and squares of each series, a line each."""
    shown = range(12)
    lines = [np.concatenate([_padded(row.pixels[seed]) for seed in shown], axis=1) for row in rows]
    Image.fromarray(np.concatenate(lines)).save(path)


def _padded(pixels: np.ndarray) -> np.ndarray:
    height, width = 144 - pixels.shape[0], 128 - pixels.shape[1]
    return np.pad(pixels, ((0, height), (0, width), (0, 0)))


def _rounded(figures: object) -> object:
    if isinstance(figures, Mapping):
        return {name: _rounded(value) for name, value in figures.items()}
    return round(figures, 5) if isinstance(figures, float) else figures


def table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return a Markdown table of means over people and training seeds."""
    names = ("own", "bleeding", "altered", "scene", "held_out", "preserved", "cpu_s")
    rows = ["| variant | LoRAs | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    grouped: dict[str, list[Mapping[str, float]]] = {}
    for key, measured in figures["LoRAs"].items():
        grouped.setdefault(key.split(" | ")[0], []).append(measured)
    for variant, measured in grouped.items():
        means: Callable[[str], float] = lambda name, of=measured: float(np.mean([each[name] for each in of]))  # noqa: E731
        cells = [f"{means(name):.4f}" for name in names]
        rows.append(f"| {variant} | {len(measured)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--subjects", nargs="+", default=["example", "other", "random"])
    parser.add_argument("--training-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--pictures", type=int, default=54, help="number of pictures for each figure")
    parser.add_argument("--table", action="store_true", help="print the results as a table, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    torch.set_num_threads(1)
    bench = Bench(models.load(SMALL_BASE / "base", device="cpu"), arguments.pictures)
    for seed in arguments.training_seeds:
        for name in arguments.variants:
            for subject in arguments.subjects:
                bench.measure(name, subject, seed)


if __name__ == "__main__":
    main()

"""Measures changes to LoRA training on the small trained base: layers, the schedule of rates, EMA, resolutions.

Every variant trains LoRAs of people whom the base does not know, with the worker's own loop. Figures of each LoRA:

- own: the share of the person's traits that a classifier reads in pictures asked for with the trigger word
- bleeding: how much more often pictures of "a person" show these traits than the base's own pictures do
- altered: the share of the traits of "a person" that differ from the base's picture of the same seed
- scene: the share of the requested place and clothes that pictures of the person show
- held_out: the loss on photos of the person that were not trained on
- preserved: the distance of predictions with and without the LoRA for "a person", on photos of other people
- cpu_s: processor seconds of a training step

Results are written after each LoRA to bench/results/training-changes.json, and a run continues where it was stopped.
LoRAs and sheets of pictures are kept in bench/work/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench.lora_figures import LoraFigures
from bench.training_tables import tables
from tools.small_base.subjects import SETTINGS, Subject, photographed, subjects
from worker.ml.adapters import attach
from worker.ml.adapters import files as lora_files
from worker.ml.models import Base
from worker.ml.train import train_lora
from worker.ml.train.batches import Photo

RESULTS = Path(__file__).parent / "results" / "training-changes.json"
WORK = Path(__file__).parent / "work"
ON_THE_WAY = (100, 150, 200)
"""Steps after which the two losses are measured too: does a change learn more, or only sooner?"""


@dataclass(frozen=True)
class Variant:
    """A way to train, at the demo's settings but for these."""

    single_blocks: bool = False  # LoRA on their feed-forward layers too
    schedule: bool = True  # the worker's warm-up and decay; else a constant rate
    resolutions: tuple[int, ...] = SETTINGS.resolutions
    rate: float = 1.0  # of the demo's
    averaged: bool = False  # measure the average of the weights too, as another LoRA: `…, EMA`

    def targets(self, denoiser: Any, of_worker: Sequence[str]) -> list[str]:
        others = [name for name in of_worker if not name.startswith("single_transformer_blocks.")]
        if not self.single_blocks:
            return others
        blocks = range(denoiser.config.num_single_layers)
        return others + [f"single_transformer_blocks.{i}.{name}" for i in blocks for name in ("proj_mlp", "proj_out")]


VARIANTS = {
    "before": Variant(schedule=False, averaged=True),
    "schedule": Variant(averaged=True),
    "targets": Variant(single_blocks=True, schedule=False),
    "targets+schedule": Variant(single_blocks=True),
    "targets+schedule, 0.7 x rate": Variant(single_blocks=True, rate=0.7),
    "96+schedule": Variant(resolutions=(96,)),
    "96+128+schedule": Variant(resolutions=(96, 128)),
}


class Recorder:
    """Keeps a LoRA's weights as they are on the way, and their exponential moving average."""

    def __init__(self) -> None:
        self._lora: Mapping[str, torch.nn.Parameter] = {}
        self._done = 0
        self.kept: dict[str, dict[str, torch.Tensor]] = {}

    def begin(self, lora: Mapping[str, torch.nn.Parameter]) -> None:
        self._lora = lora
        self.kept["ema"] = self._weights()

    @torch.no_grad()
    def after_step(self, *_: object) -> None:
        decay = min(0.99, (1 + self._done) / (10 + self._done))
        for name, average in self.kept["ema"].items():
            average.lerp_(self._lora[name], 1 - decay)
        self._done += 1
        if self._done in ON_THE_WAY:
            self.kept[str(self._done)] = self._weights()

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weights.detach().clone() for name, weights in self._lora.items()}


@contextmanager
def loop_of(variant: Variant) -> Iterator[Recorder]:
    """Make the worker's loop train as this variant does, and record its weights."""
    recorder, add_lora = Recorder(), attach.new_lora

    @contextmanager
    def new_lora(denoiser: Any, targets: Sequence[str], *rest: Any) -> Iterator[dict[str, torch.nn.Parameter]]:
        with add_lora(denoiser, variant.targets(denoiser, targets), *rest) as lora:
            recorder.begin(lora)
            yield lora

    constant = mock.patch.object(train_lora, "learning_rate", lambda step, total, peak: peak)
    hook = register_optimizer_step_post_hook(recorder.after_step)
    try:
        with mock.patch.object(attach, "new_lora", new_lora), nullcontext() if variant.schedule else constant:
            yield recorder
    finally:
        hook.remove()


def trained(base: Base, variant: Variant, photos: Sequence[Photo], seed: int, folder: Path) -> float:
    """Train a variant, and write the LoRAs of its last step, on the way, and EMA; return processor seconds a step."""
    folder.mkdir(parents=True, exist_ok=True)
    rate = SETTINGS.learning_rate * variant.rate
    config = replace(SETTINGS, seed=seed, resolutions=variant.resolutions, learning_rate=rate)
    times = []
    with loop_of(variant) as recorder:
        for event in train_lora.train(base, photos, config, train_lora.Run(folder, checkpoint_every_s=math.inf)):
            if isinstance(event, train_lora.Step):
                times.append(time.process_time())
    for name, weights in recorder.kept.items():
        lora_files.write(folder / f"{name}.safetensors", weights, {})
    return (times[-1] - times[0]) / (len(times) - 1)


class Bench:
    """Trains and measures what has not been measured yet."""

    def __init__(self, pictures: int) -> None:
        people = subjects()
        self._people = {person.name: person for person in people}
        self._photos = {person.name: photographed(person, WORK / "photos" / person.name) for person in people}
        self._figures = LoraFigures(people, pictures, WORK / "unseen photos")
        self._results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self._results["pictures"] = pictures

    def measure(self, name: str, person: str, seed: int) -> None:
        """Train a variant for a person with a seed of training, and measure the LoRA, or both with the average."""
        subject, folder = self._people[person], WORK / name / f"{person}-{seed}"
        keys = {"lora": f"{name} | {person} | {seed}"}
        if VARIANTS[name].averaged:
            keys["ema"] = f"{name}, EMA | {person} | {seed}"
        if set(keys.values()) <= self._results.get("LoRAs", {}).keys():
            return
        if person not in self._results.get("base", {}):
            self._keep("base", person, self._figures.of_base(subject))
        seconds = trained(self._figures.base, VARIANTS[name], self._photos[person], seed, folder)
        for file, key in keys.items():
            figures = self._figures.of_lora(folder / f"{file}.safetensors", subject)
            self._keep("LoRAs", key, figures | {"cpu_s": seconds})
        self._measure_on_the_way(keys["lora"], folder, subject)

    def _measure_on_the_way(self, key: str, folder: Path, subject: Subject) -> None:
        for step in ON_THE_WAY:
            losses = self._figures.losses(folder / f"{step}.safetensors", subject)
            self._keep("on the way", f"{key} | {step}", losses)

    def _keep(self, group: str, key: str, figures: Mapping[str, object]) -> None:
        self._results.setdefault(group, {})[key] = _rounded(figures)
        RESULTS.write_text(json.dumps(self._results, indent=1) + "\n")
        print(key, json.dumps(_rounded(figures)), flush=True)


def _rounded(figures: object) -> object:
    if isinstance(figures, Mapping):
        return {name: _rounded(value) for name, value in figures.items()}
    return round(figures, 5) if isinstance(figures, float) else figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--people", nargs="+", default=["example", "other", "random"], metavar="PERSON")
    parser.add_argument("--training-seeds", nargs="+", type=int, default=[0, 1], metavar="SEED")
    parser.add_argument("--pictures", type=int, default=54, help="number of pictures for each figure")
    parser.add_argument("--tables", action="store_true", help="print the results as tables, and measure nothing")
    arguments = parser.parse_args()
    if not arguments.tables:
        torch.set_num_threads(1)
        bench = Bench(arguments.pictures)
        for seed in arguments.training_seeds:
            for name in arguments.variants:
                for person in arguments.people:
                    bench.measure(name, person, seed)
    print(tables(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()

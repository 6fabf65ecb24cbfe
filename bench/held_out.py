"""The loss on held-out photos with a LoRA of the person, with none, and with another person's, of every family.

    python -m bench.held_out [FAMILY]...

The tiny bases of random weights, trained as in `tests/ml/test_training.py`. Writes `results/held-out.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.trees import RESULTS
from tests.ml.conftest import LEARNING_RATES, QUICK_CONFIG, ROUNDS, draw_photos
from tests.ml.runs import finish
from worker.demo.held_out_loss import held_out_loss
from worker.demo.tiny_bases import TINY
from worker.ml import models
from worker.ml.train.train_lora import Run, train

SEEDS = (0, 1, 2)
"""Of the training; the photos are of other scenes for each."""


def main(families: list[str]) -> None:
    found = {family: [losses(family, seed) for seed in SEEDS] for family in families or LEARNING_RATES}
    (RESULTS / "held-out.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print("| family | seed | none | own | another's | own to none | own to another's |\n|---|---|---|---|---|---|---|")
    for family, runs in found.items():
        for seed, loss in zip(SEEDS, runs, strict=True):
            none, own, other = loss["none"], loss["own"], loss["other"]
            print(
                f"| {family} | {seed} | {none:.3f} | {own:.3f} | {other:.3f} | {own / none:.2f} | {own / other:.2f} |"
            )


def losses(family: str, seed: int) -> dict[str, float]:
    """Train a LoRA of each person, and measure both and none on photos of the first that neither was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        TINY[f"tiny-{family}"].provide_models(scratch / "models")
        base = models.load(scratch / "models" / f"tiny-{family}", "cpu")
        rounds = {"learning_rate": LEARNING_RATES[family], **ROUNDS.get(family, {}), "seed": seed}
        config = replace(QUICK_CONFIG, **rounds)
        loras: dict[str, Path | None] = {"none": None}
        for name, who in (("own", "example"), ("other", "other")):
            workdir = scratch / name
            workdir.mkdir()
            photos = draw_photos(workdir, who, seed=seed, count=12)
            loras[name] = finish(train(base, photos, config, Run(workdir))).path
        held_out = draw_photos(scratch, "example", seed=seed + 100, count=6)
        side = max(config.resolutions)
        return {name: held_out_loss(base, held_out, path, resolution=side) for name, path in loras.items()}


if __name__ == "__main__":
    main(sys.argv[1:])

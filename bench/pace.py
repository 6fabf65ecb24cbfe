"""Pace of drawing and training at tiny size, in pairs: against the release before and the plain recipe of diffusers.

    python -m bench.pace [PAIRS]

Each side is a process that has loaded its models and warmed up; the two of a pair run one after the other, in turn
first and second. What counts is the processor time of one thread, since other processes of the machine disturb it less
than the time on the wall. A second process of this tree shows what is noise. Writes `results/pace.json`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from bench.trees import RESULTS, ROOT, checked_out, command

PAIRS = 12
NOW = "now"
AGAINST = {"before": "worker", "plain": "plain", "itself": "worker"}
WORKLOADS = tuple(
    f"{family}, {what}" for family in ("flux", "sd15") for what in ("drawing", "drawing with a LoRA", "training")
)


class Side:
    """A process that draws and trains on request."""

    def __init__(self, tree: Path, kind: str, folder: Path) -> None:
        words, cwd, environment = command(tree, "bench.workloads", kind, folder)
        self._process = subprocess.Popen(
            words, cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(self, workload: str) -> dict[str, float]:
        """Return the seconds that it took, on the wall and of the processor."""
        self._process.stdin.write(f"{workload}\n")
        seconds: dict[str, float] = json.loads(self._process.stdout.readline())
        return seconds


def main(pairs: int = PAIRS) -> None:
    if pairs < 2:
        sys.exit(f"PAIRS must be at least 2, for quartiles, not {pairs}")
    with tempfile.TemporaryDirectory() as scratch, checked_out() as before, ExitStack() as running:
        folder = Path(scratch)
        prepare(folder)
        trees = {"before": before, "plain": ROOT, "itself": ROOT}
        sides = {name: running.enter_context(Side(trees[name], kind, folder)) for name, kind in AGAINST.items()}
        sides[NOW] = running.enter_context(Side(ROOT, "worker", folder))
        found = {workload: compare(sides, workload, pairs) for workload in WORKLOADS}
    RESULTS.joinpath("pace.json").write_text(json.dumps({"pairs": pairs, "workloads": found}, indent=1) + "\n", "utf-8")
    print(table(found))


def prepare(folder: Path) -> None:
    """Write the tiny bases, a LoRA for each, and photos."""
    from bench.release import Photo, models, training
    from bench.workloads import FAMILIES, RESOLUTION, TRAINING
    from worker.demo.drawing import portrait
    from worker.ml.families.tiny import flux1, sd15

    for number, scene in enumerate(portrait.scenes(4, 0)):
        portrait.draw(portrait.Person.example(), scene, (192, 256)).save(folder / f"{number}.jpg")
    photos = [Photo(path, "a photo") for path in folder.glob("*.jpg")]
    for family, builder in zip(FAMILIES, (flux1, sd15), strict=True):
        builder.build_tiny(folder / f"tiny-{family}")
        base = models.load(folder / f"tiny-{family}", "cpu")
        for _ in training(base, photos, folder, RESOLUTION, steps=2, preservation=0.0, **TRAINING):
            pass
        (folder / "lora.safetensors").rename(folder / f"{family}.safetensors")


def compare(sides: Mapping[str, Side], workload: str, pairs: int) -> dict[str, Any]:
    """Return the medians of the pairs' ratios, this tree to each other side, with their quartiles."""
    for side in sides.values():
        side.run(workload)
    found: dict[str, Any] = {}
    for name in AGAINST:
        ratios: dict[str, list[float]] = {"cpu": [], "wall": []}
        seconds: list[float] = []
        for pair in range(pairs):
            order = (NOW, name) if pair % 2 else (name, NOW)
            taken = {side: sides[side].run(workload) for side in order}
            seconds.append(taken[NOW]["cpu"])
            for clock, values in ratios.items():
                values.append(taken[NOW][clock] / taken[name][clock])
        found[name] = {clock: summary(values) for clock, values in ratios.items()} | {
            "seconds_now": round(statistics.median(seconds), 4)
        }
    return found


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def table(found: Mapping[str, Any]) -> str:
    """Return the ratios as a table in Markdown."""
    lines = ["| | " + " | ".join(f"to {name}" for name in AGAINST) + " |", "| --- |" + " --- |" * len(AGAINST)]
    for workload, against in found.items():
        cells = ["{median:.2f} ({low:.2f} to {high:.2f})".format(**against[name]["cpu"]) for name in AGAINST]
        lines.append(f"| {workload} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

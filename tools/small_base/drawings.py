"""Draw the pictures that all models here are trained on: `work/drawings/`, in shards that are drawn once.

Three of four shards hold portraits of 112 x 144 pixels, the fourth squares of 128 x 128, each with its own
composition. A shard's people depend on its number alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.small_base.people import Shown, random_subject
from worker.demo.drawing.portrait import draw

WORK = Path(__file__).parent / "work"
FOLDER = WORK / "drawings"
PORTRAIT, SQUARE = (112, 144), (128, 128)
SHARD = 250
SHARDS = 96
HELD_OUT = range(900, 904)  # shards that are never trained on


@dataclass(frozen=True)
class Shard:
    """Some drawings of one size: pixels (N, H, W, 3) in 0…255, and what each shows."""

    number: int
    pixels: NDArray[np.uint8]
    shown: list[Shown]


def size_of(number: int) -> tuple[int, int]:
    return SQUARE if number % 4 == 3 else PORTRAIT


def drawn(numbers: range = range(SHARDS)) -> list[int]:
    """Return the numbers of the shards that exist."""
    return [number for number in numbers if _path(number).exists()]


def load(number: int) -> Shard:
    """Load a shard, after drawing it if it does not exist."""
    if not _path(number).exists():
        draw_shard(number)
    shown = [Shown(**json.loads(line)) for line in _path(number).with_suffix(".jsonl").read_text().splitlines()]
    return Shard(number, np.load(_path(number)), shown)


def draw_shard(number: int) -> None:
    chance = random.Random(f"small base {number}")
    size = size_of(number)
    pixels = np.empty((SHARD, size[1], size[0], 3), np.uint8)
    lines = []
    for index in range(SHARD):
        person, scene, shown = random_subject(chance)
        pixels[index] = np.asarray(draw(person, scene, size))
        lines.append(json.dumps(asdict(shown)))
    path = _path(number)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, pixels)
    unfinished.rename(path)


def _path(number: int) -> Path:
    return FOLDER / f"{number:03}.npy"


def _wanted(share: int, of: int) -> Iterator[int]:
    for number in [*HELD_OUT, *range(SHARDS)]:
        if number % of == share and not _path(number).exists():
            yield number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", default="0/1", help="k/n draws every n-th shard, starting with the k-th")
    share, of = map(int, parser.parse_args().share.split("/"))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an unfinished shard is drawn again
    for number in _wanted(share, of):
        draw_shard(number)
        print(f"shard {number} drawn", flush=True)


if __name__ == "__main__":
    main()

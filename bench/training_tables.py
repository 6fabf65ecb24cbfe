"""Tables of what `bench.training_changes` measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FIGURES = ("own", "bleeding", "altered", "held_out", "preserved", "cpu_s")
COMPARED = (
    ("before", "schedule"),
    ("before", "before, EMA"),
    ("schedule", "schedule, EMA"),
    ("before, EMA", "schedule"),
    ("before", "targets"),
    ("schedule", "targets+schedule"),
    ("schedule", "targets+schedule, 0.7 x rate"),
    ("schedule", "96+128+schedule"),
    ("96+schedule", "96+128+schedule"),
)
Run = tuple[str, str]
"""A person and a seed of training."""


def tables(results: Mapping[str, Any]) -> str:
    """Return Markdown tables: differences of variants, the noise of another seed of training, and losses on the way."""
    measured: dict[str, dict[Run, Mapping[str, float]]] = {}
    for key, figures in results["LoRAs"].items():
        variant, person, seed = key.split(" | ")
        measured.setdefault(variant, {})[person, seed] = figures
    return "\n\n".join([_differences(measured), _noise(measured), _on_the_way(results["on the way"])])


def _differences(measured: Mapping[str, Mapping[Run, Mapping[str, float]]]) -> str:
    """Return mean differences with their standard errors, of the same people and seeds."""
    rows = []
    for one, other in COMPARED:
        runs = [run for run in measured.get(one, {}) if run in measured.get(other, {})]
        if len(runs) > 1:
            pairs = [(measured[one][run], measured[other][run]) for run in runs]
            changes = [[after[name] - before[name] for before, after in pairs] for name in FIGURES]
            rows.append([f"{one} to {other}", str(len(runs)), *map(_with_error, changes)])
    return _table(("Change", "pairs", *FIGURES), rows)


def _with_error(changes: Sequence[float]) -> str:
    return f"{statistics.fmean(changes):+.4f} ± {statistics.stdev(changes) / len(changes) ** 0.5:.4f}"


def _noise(measured: Mapping[str, Mapping[Run, Mapping[str, float]]]) -> str:
    """Return the difference of the second seed of training to the first, for each person."""
    rows = [
        [variant, person, *(f"{runs[person, '1'][name] - runs[person, '0'][name]:+.4f}" for name in FIGURES)]
        for variant, runs in measured.items()
        for person, seed in runs
        if seed == "0" and (person, "1") in runs
    ]
    return _table(("Another seed", "person", *FIGURES), rows)


def _on_the_way(losses: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[*key.split(" | "), f"{loss['held_out']:.4f}", f"{loss['preserved']:.4f}"] for key, loss in losses.items()]
    return _table(("Variant", "person", "seed", "step", "held_out", "preserved"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

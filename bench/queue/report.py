"""The table: each figure beside its goal and the floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

ROWS = (
    ("pickup from before the INSERT, p50, ms", "pickup", "p50", "≤ 8"),
    ("the same, p99, ms", "pickup", "p99", ""),
    ("over 50 ms, of 100 a round", "pickup", "slow", "0"),
    ("pickup from the INSERT's commit, p50, ms", "pickup", "p50 from the commit", ""),
    ("over 50 ms, of 100 a round", "pickup", "slow from the commit", "0"),
    ("a lone job from before its INSERT, p50, ms", "lone", "p50", "≤ 8"),
    ("its INSERT alone, p50, ms", "lone", "insert p50", "≤ 3"),
    ("makespan over ideal", "makespan", "over ideal", "≤ 1.05"),
    ("no-op jobs a second, 1 worker", "no-ops 1", "jobs a second", "≥ 200"),
    ("the same, 4 workers", "no-ops 4", "jobs a second", "≥ 400"),
    ("database time of a job, ms", "cost", "ms a job", "≤ 15"),
    ("GPU fed, another person each 2-s job", "fed", "share", "≥ 0.98"),
    ("statements a minute and pod of five, idle", "idle", "a minute", "≤ 25"),
    ("the same, a long job on each", "full", "a minute", "≤ 25"),
)

Found = Mapping[str, Sequence[Mapping[str, float]]]


def table(found: Found) -> str:
    """Return the medians of the rounds as a Markdown table, with the ratio to the floor."""
    lines = ["| measure | floor | Likeness | ratio | goal |", "|---|---|---|---|---|"]
    for title, measure, figure, goal in ROWS:
        ours, floor = (_median(found.get(f"{measure}, {side}", ()), figure) for side in ("likeness", "floor"))
        if ours is not None:
            ratio = f"{ours / floor:.3g}" if floor else ""
            lines.append(f"| {title} | {_number(floor)} | {_number(ours)} | {ratio} | {goal} |")
    return "\n".join(lines)


def figures(values: Mapping[str, float]) -> str:
    """Return figures on one line."""
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _median(rounds: Sequence[Mapping[str, float]], figure: str) -> float | None:
    return statistics.median(figures[figure] for figures in rounds) if rounds else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

"""The claim loop beside the floor, the smallest loop that is right, in interleaved rounds; each figure beside its goal.

    python -m bench.queue [--rounds N] [--tree DIRECTORY] [--only MEASURE]... [--queued N]

`--tree` measures the worker of another checkout. `--queued` puts so many jobs of a route that nobody takes on the queue
first. Raw events go to `build/bench-queue.jsonl`, figures to `results/queue.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.queue import measures, report
from bench.queue.likeness_bench.events import Events
from bench.queue.measures import Figures
from bench.queue.sides import Floor, Likeness, Servers, Side
from bench.trees import RESULTS, ROOT
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3

RAW = ROOT / "build" / "bench-queue.jsonl"
Found = dict[str, list[Figures]]
"""By measure and side; one for each round."""

ROUNDS = 3
MEASURES = ("pickup", "lone", "no-ops 1", "fed", "cost", "makespan", "no-ops 4", "statements")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--only", action="append", choices=MEASURES)
    parser.add_argument("--queued", type=int, default=0)
    options = parser.parse_args()
    RAW.parent.mkdir(exist_ok=True)
    RAW.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = Servers(
            postgres=stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres")),
            s3=stack.enter_context(EmbeddedS3()),
            events=stack.enter_context(Events(RAW)),
            folder=Path(folder),
            tree=options.tree.resolve(),
        )
        servers.prepare_log()
        likeness, floor = stack.enter_context(Likeness(servers)), stack.enter_context(Floor(servers))
        likeness.fill_queue(options.queued)
        found = Run(likeness, floor, options.rounds, options.only or MEASURES).everything()
    RESULTS.joinpath("queue.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(report.table(found))


@dataclass
class Run:
    """A measurement of both sides."""

    likeness: Likeness
    floor: Floor
    rounds: int
    wanted: Collection[str]
    found: Found = field(default_factory=lambda: defaultdict(list))

    def everything(self) -> Found:
        """Take every measure that is wanted; returns the figures."""
        self.interleave(
            1, {"pickup": measures.pickup, "lone": measures.lone, "no-ops 1": measures.no_ops, "cost": measures.cost}
        )
        self.interleave(measures.MAKESPAN_WORKERS, {"makespan": measures.makespan})
        self.interleave(4, {"no-ops 4": measures.no_ops})
        if "fed" in self.wanted:
            with self.likeness.running(1):
                self.note("fed", self.likeness, measures.fed(self.likeness))
        if "statements" in self.wanted:
            for side in (self.likeness, self.floor):
                with side.running(measures.PODS):
                    self.note("idle", side, measures.statements(side, busy=False))
                    self.note("full", side, measures.statements(side, busy=True))
        return dict(self.found)

    def interleave(self, workers: int, chosen: Mapping[str, Callable[[Side], Figures]]) -> None:
        """Take these measures with so many workers, the sides in turn."""
        timed = {name: measure for name, measure in chosen.items() if name in self.wanted}
        if timed:
            with self.likeness.running(workers), self.floor.running(workers):
                for round_ in range(self.rounds):
                    order: list[Side] = [self.likeness, self.floor]
                    for name, measure in timed.items():
                        for side in order[:: 1 if round_ % 2 else -1]:
                            self.note(name, side, measure(side))

    def note(self, name: str, side: Side, figures: Figures) -> None:
        self.found[f"{name}, {side.name}"].append(figures)
        print(f"{name}, {side.name}: {report.figures(figures)}", flush=True)


if __name__ == "__main__":
    main()

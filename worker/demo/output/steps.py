"""The steps of a demo run on the terminal: a bar while one runs, a line when it is done, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

NAME_WIDTH = 26


@dataclass
class Step:
    """One step, while it runs and afterwards.

    Attributes:
        result: what it did, in a few words.
        details: what can be checked, as label and value: a job id, an object key, a digest.
    """

    name: str
    update: Callable[[float, str], None]
    """Set the bar: 0 … 1, and what is being done."""
    seconds: float = 0.0
    result: str = ""
    details: list[tuple[str, str]] = field(default_factory=list)

    def show(self, **values: object) -> None:
        """Add rows to the table's last column."""
        self.details += [(label.replace("_", " "), str(value)) for label, value in values.items()]


class Steps:
    """All steps so far, in order."""

    def __init__(self, console: Console) -> None:
        self.done: list[Step] = []
        self._console = console

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step. One that raises is not recorded."""
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(28),
            TextColumn("[dim]{task.fields[now]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task(f"{name:<{NAME_WIDTH}}", total=None, now="")

            def update(done: float, now: str) -> None:
                bar.update(task, total=1.0 if done else None, completed=done, now=escape(now))

            step, started = Step(name, update), time.monotonic()
            yield step
            step.seconds = time.monotonic() - started
        self.done.append(step)
        self._console.print(_line(step))

    def table(self) -> Table:
        """Return a table of all steps: name, seconds, details."""
        table = Table(box=box.HORIZONTALS, show_lines=True, header_style="bold", expand=False)
        table.add_column("Step", max_width=18)
        table.add_column("Seconds", justify="right")
        table.add_column("Details", overflow="fold")
        for step in self.done:
            table.add_row(step.name, f"{step.seconds:.1f}", Group(Text(step.result), _labelled(step.details)))
        table.add_row("Total", f"{sum(step.seconds for step in self.done):.1f}", "")
        return table


def _line(step: Step) -> Table:
    """Return one grid per step, so that long text wraps within its column."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=NAME_WIDTH)
    grid.add_column(width=7, justify="right")
    grid.add_column()
    grid.add_row("[green]✓", step.name, f"[dim]{step.seconds:.1f} s", Text(step.result))
    return grid


def _labelled(details: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for label, value in details:
        grid.add_row(label, Text(value))
    return grid

"""Print rows of the database for commands: tables and lists, as plain text if the output is not a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 320
"""The width of lines in characters if a file or a program reads them, which do not wrap."""


def console() -> Console:
    """Return standard output, without rich's markup: users wrote some of the texts."""
    shown = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not shown.is_terminal:
        shown.width = PIPE_WIDTH
    return shown


def table(to: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a titled table, or `empty` if it has no rows."""
    to.print(Text(title, style="bold"))
    shown = Table(box=None, padding=(0, 2), header_style="dim")
    for column in columns:
        shown.add_column(column, overflow="fold")  # never shortened: ids and keys are copied from here
    for row in rows:
        shown.add_row(*(sanitize_line(value) for value in row))
    to.print(shown if shown.rows else Text(f"  {empty}"))
    to.print()


def listing(to: Console, title: str, values: Mapping[str, object]) -> None:
    """Print a titled list of names and values, without values that are None."""
    to.print(Text(title, style="bold"))
    for name, value in values.items():
        if value is not None:
            to.print(Text(f"  {name:<14} {sanitize_line(value)}"))
    to.print()


def sanitize_line(value: object) -> str:
    """Return a value as one line of text. Control characters, which could steer a terminal, become spaces."""
    match value:
        case None:
            text = ""
        case datetime():
            text = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            text = span(value)
        case list() | dict():
            try:
                text = json.dumps(value, ensure_ascii=False)
            except RecursionError:
                text = "JSON that is nested too deeply"
        case _:
            text = str(value)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def span(duration: timedelta) -> str:
    """Return a duration as people write it: 4.2 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    seconds = max(0.0, duration.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

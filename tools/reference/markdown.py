"""Markdown as the reference pages need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTE = "<!-- Made by `python -m tools.reference`; do not edit. -->"


def page(title: str, *parts: str) -> str:
    """A whole page: title, a note for whoever would edit it, parts with an empty line between."""
    return "\n\n".join([f"# {title}", NOTE, *(part.strip() for part in parts if part.strip())]) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text in the typeface of code, nothing for nothing."""
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

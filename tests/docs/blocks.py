"""The documentation's pages and the code blocks in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PATTERNS = ("*.md", "docs/**/*.md", "examples/**/*.md", "tools/**/*.md", "bench/**/*.md", "tests/**/*.md")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is the first line of its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> dict[str, str]:
    """Return the text of every page by its path from the root."""
    found = {path for pattern in PATTERNS for path in ROOT.glob(pattern) if "work" not in path.parts[-2:-1]}
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(found)}


def blocks() -> list[Block]:
    """Return every block, in order. An indented block has no language."""
    return [
        Block(page, begin + 2, token.info.partition(" ")[0], token.content)
        for page, text in pages().items()
        for begin, _, token in _code(text)
    ]


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    lines = text.splitlines()
    for begin, end, _ in _code(text):
        lines[begin:end] = [""] * (end - begin)
    return "\n".join(lines)


def _code(text: str) -> list[tuple[int, int, Token]]:
    """Return the code blocks with their first and last lines."""
    tokens = MarkdownIt().parse(text)
    return [
        (token.map[0], token.map[1], token) for token in tokens if token.map and token.type in ("fence", "code_block")
    ]

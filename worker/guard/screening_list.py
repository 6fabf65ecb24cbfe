"""Read `guardrails.toml`: the blocked words, phrases and ages, and the signs that may stand for a letter."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "guardrails.toml"


@cache
def data() -> dict[str, Any]:
    """Return the parsed file."""
    with DATA.open("rb") as file:
        return tomllib.load(file)


def expand(phrase: str) -> Iterator[str]:
    """Yield every choice between the alternatives of a phrase: "ab" and "ac" for "a{b,c}"."""
    endings: dict[str, list[str]] = data()["endings"]
    parts = re.split(r"\{([^}]*)\}", phrase)
    choices = [endings.get(part, part.split(",")) if index % 2 else [part] for index, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))

"""Lists of keys that other programs wrote."""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"


def listed_keys(name: str) -> dict[str, list[int]]:
    """Read names and shapes from a list in `tests/data`: one tensor a line, comments after #."""
    lines = (DATA / name).read_text("utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return {key: json.loads(shape) for key, shape in pairs}

"""Which single files make a base model, by family: read from `single_files.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SingleFiles:
    """What a family's base models are made of. Files go by the names of their options."""

    model: str  # for a person
    files: Sequence[str]
    optional: Sequence[str]
    tokenizers: Sequence[str]  # folders

    def fit(self, given: AbstractSet[str]) -> bool:
        """Return True if these files make a base model."""
        return {*self.files} <= given <= {*self.files, *self.optional}

    def __str__(self) -> str:
        """Return a sentence that says which options make a base model."""
        optional = f" and, optionally, {_options(self.optional)}" if self.optional else ""
        return f"{self.model} is made of {_options(self.files)}{optional}"


def _options(names: Sequence[str]) -> str:
    *others, last = (f"--{name}" for name in names)
    return f"{', '.join(others)} and {last}" if others else last


SINGLE_FILES = {
    family: SingleFiles(**entry)
    for family, entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
}
"""By family."""

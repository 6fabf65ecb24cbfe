"""What a family brings of its own to IP-Adapters: names in their files, and how its denoiser is given pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterNames:
    """Names as diffusers' loaders have them, beside those of the published files."""

    prefixes: Mapping[str, str]
    """Of the two halves of a file, "image_proj" and "ip_adapter", by its own prefix."""
    layers: Mapping[str, str]
    """Other names of layers of the attention, by their names in a file."""
    first: int
    step: int
    """Numbers of the layers in "ip_adapter": those of the attention that reads pictures."""
    projections: tuple[str, ...]
    """A weight of the projection of each kind that diffusers reads for this family."""
    kinds: str
    """What these kinds are, for a person."""
    argument: tuple[str, str]
    """The denoiser's argument, a mapping, and its key for the embedded pictures."""
    against_is_black: bool
    """Whether negative prompts come with a black picture. Else the embedding is zeros, or that of a grey one."""

    def part_of(self, key: str) -> tuple[str, str] | None:
        """Return the half that a file's key belongs to, and its name there; None for any other key."""
        for prefix, half in self.prefixes.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                for theirs, ours in self.layers.items():
                    name = name.replace(theirs, ours)
                return half, name
        return None

    def key_of(self, half: str, name: str) -> str:
        """Return the key in a published file: the inverse of `part_of`."""
        for theirs, ours in self.layers.items():
            name = name.replace(ours, theirs)
        return next(prefix for prefix, own in self.prefixes.items() if own == half) + name


def numbers_of(names: Mapping[str, object]) -> set[int]:
    """Return the numbers of the layers that "ip_adapter" has weights for."""
    return {int(match[1]) for name in names if (match := re.match(r"(\d+)\.", name))}

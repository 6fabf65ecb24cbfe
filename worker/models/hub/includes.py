"""Files of a hub's repositories that an operator names one by one: those of a guide, which no index lists.

    [OWNER/NAME:]FILE[=NAME]

FILE of a repository, which has NAME in the model's folder. Without OWNER/NAME it is of the repository of the command.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from worker.errors import CommandRefused, InvalidInput, truncate_list
from worker.storage.object_store import check_key

_INCLUDE = re.compile(r"(?:(?P<repo>[^/:=]+/[^/:=]+):)?(?P<file>[^:=]+)(?:=(?P<name>[^:=]+))?")
_KNOWN = (".safetensors", ".json", ".yaml", ".txt", ".md")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Include:
    """One file of a repository, and its name in the model's folder."""

    repo: str
    file: str
    name: str

    @property
    def is_converted(self) -> bool:
        """Return True for a pickle that becomes safetensors: of it, tensors alone are read."""
        return PurePosixPath(self.file).suffix in _PICKLES and PurePosixPath(self.name).suffix == ".safetensors"


def parse_includes(texts: Iterable[str], repo: str | None) -> list[Include]:
    """Return the files that these texts name; `repo` is that of the command. Raises CommandRefused."""
    includes: list[Include] = []
    for text in texts:
        match = _INCLUDE.fullmatch(text)
        source = match and (match["repo"] or repo)
        if match is None or source is None:
            raise CommandRefused(f"--include {text!r} is not understood: write [OWNER/NAME:]FILE or FILE=NAME")
        include = Include(source, match["file"], match["name"] or match["file"])
        _check(include)
        if any(other.name == include.name for other in includes):
            raise CommandRefused(f"--include names {include.name} twice: give one of them another name, FILE=NAME")
        includes.append(include)
    return includes


def _check(include: Include) -> None:
    """Raise CommandRefused for a file that is never loaded, or a name that leaves the folder."""
    for name in (include.name,) if include.is_converted else (include.file, include.name):
        if PurePosixPath(name).suffix not in _KNOWN:
            raise CommandRefused(
                f"{name} of {include.repo} is unsupported: weights are read from .safetensors files only, because a "
                "pickle (.bin, .ckpt, .pt, .pth) can run any program; choose a file that ends in .safetensors, or "
                "convert it, FILE=NAME.safetensors"
            )
    try:
        check_key(include.name)
    except InvalidInput as error:
        raise CommandRefused(f"--include: {include.name!r} is not a name in the model's folder: {error}") from error


def check_present(includes: Iterable[Include], present: Collection[str]) -> None:
    """Raise CommandRefused for a file that its repository does not have; `present` are those that it has."""
    for include in includes:
        if include.file not in present:
            same = [name for name in sorted(present) if name.endswith(".safetensors")]
            has = f": it has {truncate_list(same)}" if same else ""
            raise CommandRefused(f"{include.file} not found in {include.repo}{has}")

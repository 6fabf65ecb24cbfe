"""`manifest.json`: the files of a model with their sizes and checksums, and where they came from.

It is written last, so a folder or a prefix without one is not finished; only a folder that somebody put on the
disk by hand may lack it.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from worker.errors import InvalidInput
from worker.storage.object_store import check_key

MANIFEST = "manifest.json"
HASHING_THREADS = 4
"""One thread hashes about 2 GB/s, less than a good disk reads."""


class ModelFile(BaseModel):
    """One file of a model."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Origin(BaseModel):
    """Where a model came from, as `worker models list` shows it."""

    model_config = ConfigDict(frozen=True)

    source: str
    """The hub's repository, or the single files it was made of."""
    revision: str | None = None
    """The commit, for a repository."""
    licence: str | None = None
    """As its author calls it; None where nobody said."""


class Manifest(BaseModel):
    """The files of a model by their names inside its folder."""

    model_config = ConfigDict(frozen=True)

    files: dict[str, ModelFile]
    origin: Origin | None = None

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, ModelFile]) -> dict[str, ModelFile]:
        """Whoever can write to the bucket must not get to write elsewhere on the pods."""
        for name in files:
            try:
                check_key(name)
            except InvalidInput as error:
                raise ValueError(str(error)) from error
        return files

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None when there is none that can be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Under its name only when it is whole."""
    arriving = folder / f".{MANIFEST}"
    arriving.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    arriving.replace(folder / MANIFEST)


def describe(folder: Path, origin: Origin | None = None) -> Manifest:
    """The manifest that a folder's contents deserve. Reads all of it."""
    names = [path.relative_to(folder).as_posix() for path in files_in(folder)]
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        files = list(threads.map(lambda name: _describe_file(folder / name), names))
    return Manifest(files=dict(zip(names, files, strict=True)), origin=origin)


def files_in(folder: Path) -> list[Path]:
    """The files of a model: no manifest, and nothing hidden (download tools leave such things).

    A part that is a link to another base's (two bases may share an encoder) counts as a folder of its own.
    """
    walked = os.walk(folder, followlinks=True)
    found = sorted(path for parent, _, names in walked for name in names if (path := Path(parent, name)).is_file())
    return [
        path
        for path in found
        if path != folder / MANIFEST and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def has_size(path: Path, file: ModelFile) -> bool:
    try:
        return path.stat().st_size == file.size_bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def matches(path: Path, file: ModelFile) -> bool:
    """Whether a file has the contents that its manifest says."""
    return has_size(path, file) and sha256_of(path) == file.sha256


def damaged(folder: Path, files: dict[str, ModelFile]) -> list[str]:
    """Those of the files whose contents are not what they should be. Reads them all."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        sound = list(threads.map(lambda name: matches(folder / name, files[name]), files))
    return [name for name, fine in zip(files, sound, strict=True) if not fine]


def sha256_of(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _describe_file(path: Path) -> ModelFile:
    return ModelFile(size_bytes=path.stat().st_size, sha256=sha256_of(path))

"""`manifest.json`: the files of a model with their sizes and checksums, and where they came from.

It is written last, so a folder or prefix without one is incomplete. Only a folder that an operator added to the disk by
hand may lack it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from worker.errors import InvalidInput
from worker.storage.checksums import sha256_of
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
    """The hub's repository, or the single files it was imported from."""
    revision: str | None = None
    """The commit, for a repository."""
    licence: str | None = None
    """The author's name for it; None if unknown."""
    others: list[Origin] = Field(default_factory=list)
    """The further repositories of a model whose files are from several."""

    @property
    def licences(self) -> str:
        """Return the licences of all sources, as far as they are known."""
        named = [origin.licence or "unknown" for origin in (self, *self.others)]
        return "" if set(named) == {"unknown"} else ", ".join(dict.fromkeys(named))


class Manifest(BaseModel):
    """The files of a model by their names inside its folder."""

    model_config = ConfigDict(frozen=True)

    files: dict[str, ModelFile]
    origin: Origin | None = None

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: dict[str, ModelFile]) -> dict[str, ModelFile]:
        """Refuse names that leave the folder: write access to the bucket must not become write access to pods."""
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
    """Return the manifest of a folder, None if it is missing or damaged. Raises OSError."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder atomically."""
    temporary = folder / f".{MANIFEST}"
    temporary.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def build_manifest(folder: Path, origin: Origin | None = None) -> Manifest:
    """Return the manifest of a folder's present contents. Reads every file."""
    names = [path.relative_to(folder).as_posix() for path in model_files(folder)]
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        files = list(threads.map(lambda name: _hash_file(folder / name), names))
    return Manifest(files=dict(zip(names, files, strict=True)), origin=origin)


def digest_of_base(folder: Path) -> str:
    """Return a digest of the names and contents of a base's files. Reads them all where there is no manifest."""
    manifest = read_manifest(folder) or build_manifest(folder)
    return digest_of(sorted((name, file.sha256) for name, file in manifest.files.items()))


def digest_of(listed: Sequence[tuple[str | int, ...]]) -> str:
    """Return a digest of a list of files, each with what tells its contents."""
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model, without its manifest and hidden files, which download tools leave.

    Follows symbolic links to folders: two base models may share a text encoder.
    """
    walked = os.walk(folder, followlinks=True)
    found = sorted(path for parent, _, names in walked for name in names if (path := Path(parent, name)).is_file())
    return [
        path
        for path in found
        if path != folder / MANIFEST and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def has_size(path: Path, file: ModelFile) -> bool:
    """Return True if a file exists with the size in its manifest."""
    try:
        return path.stat().st_size == file.size_bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def matches(path: Path, file: ModelFile) -> bool:
    """Return True if a file has the contents in its manifest. Reads it."""
    return has_size(path, file) and sha256_of(path) == file.sha256


def damaged_files(folder: Path, files: dict[str, ModelFile]) -> list[str]:
    """Return the names of those files whose contents differ from their manifest. Reads every file."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        matching = list(threads.map(lambda name: matches(folder / name, files[name]), files))
    return [name for name, is_matching in zip(files, matching, strict=True) if not is_matching]


def _hash_file(path: Path) -> ModelFile:
    return ModelFile(size_bytes=path.stat().st_size, sha256=sha256_of(path))

"""Base models: from this pod's disk, else from the model bucket, never from a public hub.

A base is a folder `MODELS_DIR/{slug}`, in the bucket `models/base/{slug}/`. Beside its files lies
`manifest.json`, which names each with its size and SHA-256. It is written last, so a prefix without one is
not finished; only a folder that somebody put on the disk by hand may lack it. Upscalers are kept like bases.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import mimetypes
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from worker.errors import InputMissing, InvalidInput, ModelMissing
from worker.storage import ObjectStore, check_key

PREFIX = "models/base/"
MANIFEST = "manifest.json"
UPSCALERS = {2: "real-esrgan-x2", 4: "real-esrgan-x4"}
UPSCALER_FILE = "model.safetensors"
LOCK_POLL_S = 0.2


class ModelFile(BaseModel):
    """One file of a base, as it was pushed."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The files of a base by their names inside its folder."""

    model_config = ConfigDict(frozen=True)

    files: dict[str, ModelFile]

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


class BaseModels:
    """The base models that this pod has or can get. `store` is None where there is no model bucket."""

    def __init__(self, folder: Path, store: ObjectStore | None, bucket: str, max_gb: float | None = None) -> None:
        self._folder = folder
        self._store = store
        self._bucket = bucket
        self._max_gb = max_gb

    def slug_path(self, slug: str) -> Path:
        """The folder of a base, there or not."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", slug):
            raise InvalidInput(f"{slug!r} cannot be the name of a base model")
        return self._folder / slug

    def present(self) -> list[str]:
        """The bases on this pod's disk, by what their folders list (contents are checked by `ensure`)."""
        if not self._folder.is_dir():
            return []
        folders = (folder for folder in sorted(self._folder.iterdir()) if not folder.name.startswith("."))
        return [folder.name for folder in folders if folder.name not in UPSCALERS.values() and _is_whole(folder)]

    async def in_bucket(self) -> list[str]:
        """The bases in the model bucket."""
        if self._store is None:
            return []
        keys = [info.key for info in await self._store.list(self._bucket, PREFIX)]
        slugs = {key.removeprefix(PREFIX).split("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")}
        return sorted(slugs - set(UPSCALERS.values()))

    async def ensure(self, slug: str) -> Path:
        """The folder of a base, whole and with the contents that were pushed.

        A file that was changed since it was last checked is checked again; a damaged one is fetched anew.
        Raises ModelMissing when the base is nowhere, damaged in the bucket, or does not fit.
        """
        path = self.slug_path(slug)
        if await asyncio.to_thread(_is_sound, path):
            return path
        async with self._alone_with(slug):
            # Another process may have brought it meanwhile.
            if not await asyncio.to_thread(_is_sound, path):
                await self._fetch(slug, path)
        return path

    async def ensure_upscaler(self, scale: int) -> Path:
        """The weights of the upscaler for `scale` 2 or 4. Raises ModelMissing like `ensure`."""
        if scale not in UPSCALERS:
            raise InvalidInput(f"there is no upscaler for a scale of {scale}, only for 2 and 4")
        slug = UPSCALERS[scale]
        path = await self.ensure(slug) / UPSCALER_FILE
        if not await asyncio.to_thread(path.is_file):
            raise _missing(slug, f"has no {UPSCALER_FILE}")
        return path

    async def push(self, slug: str) -> int:
        """Upload a base from the disk to the bucket, its manifest last. Returns its size in bytes."""
        path = self.slug_path(slug)
        if self._store is None:
            raise _missing(slug, "cannot be pushed: there is no model bucket")
        if not await asyncio.to_thread(_is_whole, path):
            raise _missing(slug, "is not on this machine's disk")
        manifest = await asyncio.to_thread(_describe, path)
        for name, file in manifest.files.items():
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            # Big shards get the time that a slow line (1 MB/s) needs.
            deadline_s = 300 + file.size_bytes / 1e6
            await self._store.upload(self._bucket, f"{PREFIX}{slug}/{name}", path / name, kind, deadline_s)
        await asyncio.to_thread(_write_manifest, path, manifest)
        await self._store.upload(self._bucket, f"{PREFIX}{slug}/{MANIFEST}", path / MANIFEST, "application/json")
        return manifest.size_bytes

    async def _fetch(self, slug: str, path: Path) -> None:
        """Bring a base from the bucket. Whole files of an earlier, interrupted or damaged fetch are kept."""
        if self._store is None:
            raise _missing(slug, "is not whole on this pod's disk, and there is no model bucket")
        manifest = await self._read_manifest(slug, self._store)
        arriving = self._folder / f".arriving-{slug}"
        await asyncio.to_thread(self._prepare, slug, manifest, path, arriving)
        for name, file in manifest.files.items():
            await self._fetch_file(slug, name, file, arriving / name, self._store)
        await asyncio.to_thread(_finish, arriving, path, manifest)

    async def _read_manifest(self, slug: str, store: ObjectStore) -> Manifest:
        arriving = self._folder / f".manifest-{slug}.json"
        try:
            await store.download(self._bucket, f"{PREFIX}{slug}/{MANIFEST}", arriving)
            return Manifest.model_validate_json(await asyncio.to_thread(arriving.read_bytes))
        except InputMissing as error:
            raise _missing(slug, "is neither on this pod's disk nor in the model bucket") from error
        except ValidationError as error:
            raise _missing(slug, f"has a damaged {MANIFEST} in the model bucket") from error
        finally:
            await asyncio.to_thread(arriving.unlink, missing_ok=True)

    async def _fetch_file(self, slug: str, name: str, file: ModelFile, target: Path, store: ObjectStore) -> None:
        if await asyncio.to_thread(_matches, target, file):
            return
        for _ in range(2):  # once more, because the first time it may have been the network
            try:
                await store.download(self._bucket, f"{PREFIX}{slug}/{name}", target)
            except InputMissing as error:
                raise _missing(slug, f"lacks {name} in the model bucket") from error
            if await asyncio.to_thread(_matches, target, file):
                return
        await asyncio.to_thread(target.unlink)
        raise _missing(slug, f"is damaged in the model bucket ({name})")

    def _prepare(self, slug: str, manifest: Manifest, path: Path, arriving: Path) -> None:
        """Take a damaged folder over, and refuse what does not fit before hours go into fetching it."""
        if path.exists():
            if not (path / MANIFEST).exists():
                # Not ours to clear away.
                raise _missing(slug, "lies unfinished in MODELS_DIR, put there by hand: finish or remove it")
            # What is sound in it need not be fetched again; whoever still reads it keeps its open files.
            shutil.rmtree(arriving, ignore_errors=True)
            path.rename(arriving)
        arriving.mkdir(parents=True, exist_ok=True)
        coming = manifest.size_bytes - _size_of(arriving)
        free = shutil.disk_usage(self._folder).free
        if coming > free:
            raise _missing(slug, f"needs {coming / 1e9:.1f} GB, and this pod's disk has {free / 1e9:.1f} GB")
        if self._max_gb is not None and _size_of(self._folder) + coming > self._max_gb * 1e9:
            raise _missing(slug, f"does not fit in MODELS_MAX_GB={self._max_gb:g} beside the others")

    @asynccontextmanager
    async def _alone_with(self, slug: str) -> AsyncIterator[None]:
        """Only one process of this machine, and one task of it, at a time; the lock ends with its holder."""
        locks = self._folder / ".locks"
        await asyncio.to_thread(locks.mkdir, parents=True, exist_ok=True)
        lock = os.open(locks / slug, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while True:
                # Asked for again and again, because a thread that waits in flock cannot be cancelled.
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await asyncio.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(lock)


def _missing(slug: str, why: str) -> ModelMissing:
    pull = f"`worker models pull REPO --as {slug}` brings it, `worker models push {slug}` shares it"
    return ModelMissing(f"base model {slug} {why}; {pull}")


def _manifest_of(folder: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def _is_whole(folder: Path) -> bool:
    """Every file of the manifest is there with its size; without one, it is a folder somebody put there."""
    manifest = _manifest_of(folder)
    if manifest is None:
        by_hand = any((folder / name).is_file() for name in ("model_index.json", UPSCALER_FILE))
        return by_hand and not (folder / MANIFEST).exists()
    return all(_has_size(folder / name, file) for name, file in manifest.files.items())


def _is_sound(folder: Path) -> bool:
    """Whole, and every file as it was pushed.

    Reading 30 GB at every job would take longer than the job, so a file older than the manifest, which was
    written after all were checked, is taken as checked. Damage that leaves the time stamp alone is not seen.
    """
    if not _is_whole(folder):
        return False
    manifest = _manifest_of(folder)
    if manifest is None:
        return True
    checked_ns = (folder / MANIFEST).stat().st_mtime_ns
    changed = [
        (folder / name, file)
        for name, file in manifest.files.items()
        if (folder / name).stat().st_mtime_ns >= checked_ns
    ]
    if not all(_matches(path, file) for path, file in changed):
        return False
    if changed:
        with suppress(OSError):  # a volume we may only read is checked again next time
            os.utime(folder / MANIFEST)
    return True


def _has_size(path: Path, file: ModelFile) -> bool:
    try:
        return path.stat().st_size == file.size_bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def _matches(path: Path, file: ModelFile) -> bool:
    return _has_size(path, file) and _sha256(path) == file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files_in(folder: Path) -> list[Path]:
    """The files of a base: no manifest, and nothing hidden (download tools leave such things)."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path
        for path in found
        if path != folder / MANIFEST and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _describe(folder: Path) -> Manifest:
    return Manifest(
        files={
            path.relative_to(folder).as_posix(): ModelFile(size_bytes=path.stat().st_size, sha256=_sha256(path))
            for path in _files_in(folder)
        }
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    arriving = folder / f".{MANIFEST}"
    arriving.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    arriving.replace(folder / MANIFEST)


def _finish(arriving: Path, path: Path, manifest: Manifest) -> None:
    """Give a fetched folder its name, with its manifest and nothing else in it."""
    for left in [found for found in arriving.rglob("*") if found.is_file()]:
        if left.relative_to(arriving).as_posix() not in manifest.files:
            left.unlink()
    _write_manifest(arriving, manifest)
    arriving.rename(path)


def _size_of(folder: Path) -> int:
    """Bytes under a folder, in which other processes may be at work."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total

"""The models of one pod: what is on its disk, what the bucket has, and fetch_lock one from there to here."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic import ValidationError

from worker.errors import InputMissing, InvalidInput, ModelMissing, SettingsError, StorageError
from worker.models.eviction import COMING, InsufficientDiskSpace, Room
from worker.models.locks import ModelLeases, fetch_lock
from worker.models.manifest import (
    MANIFEST,
    Manifest,
    ModelFile,
    damaged,
    has_size,
    matches,
    read_manifest,
    write_manifest,
)
from worker.models.names import PREFIX, UPSCALER_FILE, UPSCALERS, arriving_path, install_command, slug_path
from worker.storage.object_store import ObjectStore
from worker.storage.writable_dirs import check_folder

log = structlog.get_logger()

_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BaseModels:
    """The base models that this pod has or can get. `store` is None where there is no model bucket."""

    def __init__(self, folder: Path, store: ObjectStore | None, bucket: str, max_gb: float | None = None) -> None:
        self._folder = folder
        self._store = store
        self._bucket = bucket
        self._uses = ModelLeases(folder)
        self._room = Room(folder, max_gb, self._uses)
        self._checked: set[str] = set()
        """Models whose every byte this process has compared with its checksum."""

    def present(self) -> list[str]:
        """The models on this pod's disk, by what their folders list (contents are checked by `ensure`).

        Raises OSError when the disk cannot be read at all.
        """
        if not self._folder.is_dir():
            return []
        folders = (folder for folder in sorted(self._folder.iterdir()) if not folder.name.startswith("."))
        return [folder.name for folder in folders if _is_at_hand(folder)]

    @property
    def has_bucket(self) -> bool:
        """Whether there is a model bucket to ask."""
        return self._store is not None

    async def can_fetch(self) -> bool:
        """Whether MODELS_DIR takes models that come; a volume that may only be read serves those that lie on it."""
        try:
            await asyncio.to_thread(check_folder, "MODELS_DIR", self._folder)
        except SettingsError:
            return False
        return True

    async def in_bucket(self) -> list[str]:
        """The models in the model bucket."""
        if self._store is None:
            return []
        keys = [info.key for info in await self._store.list(self._bucket, PREFIX)]
        return sorted({key.removeprefix(PREFIX).split("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")})

    async def ensure(self, slug: str, *, may_evict: bool = True) -> Path:
        """The folder of a model, whole and with the contents that were pushed.

        The first time in a process all of it is compared with its checksums; afterwards a file that was changed
        since it was last checked. What is damaged is fetched anew, and for that models that were used long ago are
        evicted. Raises ModelMissing when the model is nowhere, damaged in the bucket, does not fit, or this pod's disk
        fails.
        """
        await self.begin_use(slug, may_evict=may_evict)
        self.end_use(slug)
        return slug_path(self._folder, slug)

    async def begin_use(self, slug: str, *, may_evict: bool = True) -> Path:
        """`ensure`, and from now on nobody evicts the model until `end_use`."""
        path = slug_path(self._folder, slug)
        try:
            await self._uses.begin(slug)
            try:
                if not await self._is_sound(slug, path):
                    await self._fetch_verified(slug, path, may_evict)
                self._checked.add(slug)
            except BaseException:
                self._uses.end(slug)
                raise
        except (OSError, StorageError) as error:
            failed = _disk_error(error)
            if failed is None:
                raise
            why = f"can be neither read from MODELS_DIR nor brought there ({failed.strerror})"
            raise missing(slug, why) from error
        return path

    def end_use(self, slug: str) -> None:
        """A user of `begin_use` is done; until other models were used, it still counts as loaded."""
        self._uses.end(slug)

    async def _fetch_verified(self, slug: str, path: Path, may_evict: bool) -> None:
        async with fetch_lock(self._folder, slug):
            # Another process may have brought it meanwhile.
            if not await self._is_sound(slug, path):
                await self._fetch(slug, path, may_evict)

    async def _is_sound(self, slug: str, path: Path) -> bool:
        return await asyncio.to_thread(is_sound, path, thorough=slug not in self._checked)

    async def _fetch(self, slug: str, path: Path, may_evict: bool) -> None:
        """Bring a model from the bucket. Whole files of an earlier, interrupted or damaged fetch are kept."""
        if self._store is None:
            raise missing(slug, "is not whole on this pod's disk, and there is no model bucket")
        manifest = await read_bucket_manifest(slug, self._store, self._bucket)
        if manifest is None:
            raise missing(slug, "is neither whole on this pod's disk nor in the model bucket")
        arriving = arriving_path(self._folder, slug)
        try:
            await asyncio.to_thread(_take_over, slug, path, arriving, manifest)
            await self._reserve(slug, manifest, may_evict)
            for name, file in manifest.files.items():
                await self._fetch_file(slug, name, file, arriving / name, self._store)
            await asyncio.to_thread(finish, arriving, path, manifest)
        except (OSError, StorageError) as error:
            failed = _disk_error(error)
            if failed is not None and failed.errno in _DISK_IS_FULL:
                # Kept, it would keep the disk full for everybody.
                await asyncio.to_thread(shutil.rmtree, arriving, ignore_errors=True)
                size_gb = manifest.size_bytes / 1e9
                raise missing(
                    slug, f"needs {size_gb:.1f} GB, and this pod's disk was full before it was here"
                ) from error
            raise

    async def _reserve(self, slug: str, manifest: Manifest, may_evict: bool) -> None:
        """Refuse what does not fit before hours go into fetching it. Asks the bucket only when something must go."""
        try:
            await asyncio.to_thread(self._room.reserve, slug, manifest.size_bytes, ())
        except InsufficientDiskSpace as error:
            if not may_evict:
                raise missing(slug, str(error)) from error
            try:
                await asyncio.to_thread(self._room.reserve, slug, manifest.size_bytes, await self.in_bucket())
            except InsufficientDiskSpace as still:
                raise missing(slug, str(still)) from still

    async def _fetch_file(self, slug: str, name: str, file: ModelFile, target: Path, store: ObjectStore) -> None:
        if await asyncio.to_thread(matches, target, file):
            return
        for _ in range(2):  # once more, because the first time it may have been the network
            try:
                await store.download(self._bucket, f"{PREFIX}{slug}/{name}", target)
            except InputMissing as error:
                raise missing(slug, f"lacks {name} in the model bucket") from error
            if await asyncio.to_thread(matches, target, file):
                return
        await asyncio.to_thread(target.unlink)
        raise missing(slug, f"is damaged in the model bucket ({name})")


class JobModels:
    """The models of one attempt: nobody evicts them until it is over."""

    def __init__(self, models: BaseModels) -> None:
        self._models = models
        self._used: list[str] = []

    async def ensure(self, slug: str) -> Path:
        """See `BaseModels.ensure`."""
        path = await self._models.begin_use(slug)
        self._used.append(slug)
        return path

    async def ensure_upscaler(self, scale: int) -> Path:
        """The weights of the upscaler for `scale` 2 or 4. Raises ModelMissing like `ensure`."""
        if scale not in UPSCALERS:
            raise InvalidInput(f"there is no upscaler for a scale of {scale}, only for 2 and 4")
        slug = UPSCALERS[scale]
        path = await self.ensure(slug) / UPSCALER_FILE
        if not await asyncio.to_thread(path.is_file):
            raise missing(slug, f"has no {UPSCALER_FILE}")
        return path

    def end(self) -> None:
        """The attempt is over."""
        while self._used:
            self._models.end_use(self._used.pop())


def missing(slug: str, why: str) -> ModelMissing:
    return ModelMissing(
        f"base model {slug} {why}; {install_command(slug)} brings it, worker models push {slug} shares it"
    )


def is_whole(folder: Path) -> bool:
    """Every file of the manifest is there with its size; without one, it is a folder somebody put there."""
    manifest = read_manifest(folder)
    if manifest is None:
        by_hand = any((folder / name).is_file() for name in ("model_index.json", UPSCALER_FILE))
        return by_hand and not (folder / MANIFEST).exists()
    return all(has_size(folder / name, file) for name, file in manifest.files.items())


def is_sound(folder: Path, *, thorough: bool) -> bool:
    """Whole, and every file as it was pushed.

    Reading 30 GB at every job would take longer than the job, so unless `thorough`, a file older than the manifest,
    which was written after all were checked, is taken as checked.
    """
    if not is_whole(folder):
        return False
    manifest = read_manifest(folder)
    if manifest is None:
        return True
    checked_ns = (folder / MANIFEST).stat().st_mtime_ns
    changed = {
        name: file
        for name, file in manifest.files.items()
        if thorough or (folder / name).stat().st_mtime_ns >= checked_ns
    }
    if damaged(folder, changed):
        return False
    if changed:
        with suppress(OSError):  # a volume we may only read is checked again next time
            os.utime(folder / MANIFEST)
    return True


async def read_bucket_manifest(slug: str, store: ObjectStore, bucket: str) -> Manifest | None:
    """The manifest of a model in the bucket; None when it is not there. Raises ModelMissing when it is damaged."""
    try:
        return Manifest.model_validate_json(await store.read(bucket, f"{PREFIX}{slug}/{MANIFEST}"))
    except InputMissing:
        return None
    except ValidationError as error:
        raise missing(slug, f"has a damaged {MANIFEST} in the model bucket") from error


def finish(arriving: Path, path: Path, manifest: Manifest) -> None:
    """Give a folder that arrived its name, with its manifest and nothing else in it."""
    _remove_others(arriving, manifest)
    (arriving / COMING).unlink(missing_ok=True)
    write_manifest(arriving, manifest)
    arriving.rename(path)


def _take_over(slug: str, path: Path, arriving: Path, manifest: Manifest) -> None:
    """What is sound in a damaged folder need not be fetched again; whoever still reads it keeps its open files."""
    if path.exists():
        if not (path / MANIFEST).exists():
            # Not ours to clear away.
            raise missing(slug, "lies unfinished in MODELS_DIR, put there by hand: finish or remove it")
        if path.is_symlink():
            raise missing(slug, "is damaged, and its folder in MODELS_DIR is a link: mend its target, or remove it")
        shutil.rmtree(arriving, ignore_errors=True)
        path.rename(arriving)
    arriving.mkdir(parents=True, exist_ok=True)
    for link in [found for found in arriving.rglob("*") if found.is_symlink()]:
        link.unlink()  # a fetch would write through it, into another model perhaps
    _remove_others(arriving, manifest)


def _remove_others(arriving: Path, manifest: Manifest) -> None:
    """The pieces that a killed process left, and what an older push had."""
    for left in [found for found in arriving.rglob("*") if found.is_file()]:
        name = left.relative_to(arriving).as_posix()
        if name not in manifest.files and name != COMING:
            left.unlink()


def _is_at_hand(folder: Path) -> bool:
    """`is_whole`, and one that cannot be read, which is none, hides no other."""
    try:
        return is_whole(folder)
    except OSError as error:
        log.warning("model.unreadable", model=folder.name, reason=error.strerror)
        return False


def _disk_error(error: BaseException | None) -> OSError | None:
    """The disk's error in what was raised, or in what caused that; None where it is the store's."""
    while error is not None:
        # A deadline's TimeoutError has no number; a connection's errors have one, and are the store's.
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            return error
        error = error.__cause__
    return None

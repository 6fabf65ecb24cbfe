"""The models that one pod has on its disk or can download from the model bucket."""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path

import structlog
from pydantic import ValidationError

from worker.errors import InputMissing, InvalidInput, SettingsError, StorageError
from worker.models.eviction import DiskSpace, InsufficientDiskSpace
from worker.models.integrity import is_complete, is_undamaged
from worker.models.locks import ModelLeases, fetch_lock
from worker.models.manifest import MANIFEST, Manifest, ModelFile, digest_of, matches, model_files, read_manifest
from worker.models.names import BUCKET_PREFIX, UPSCALER_FILE, UPSCALERS, model_missing, partial_path, slug_path
from worker.models.partial_folder import install, prepare_partial
from worker.storage.object_store import ObjectStore
from worker.storage.writable_dirs import check_writable

log = structlog.get_logger()

_DISK_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BaseModels:
    """The base models and upscalers of this pod. `store` is None where no model bucket is configured."""

    def __init__(self, folder: Path, store: ObjectStore | None, bucket: str, max_gb: float | None = None) -> None:
        self._folder = folder
        self._store = store
        self._bucket = bucket
        self._leases = ModelLeases(folder)
        self._disk_space = DiskSpace(folder, max_gb, self._leases)
        self._verified: set[str] = set()
        """Models of which this process has compared every byte with its checksum."""

    def present(self) -> list[str]:
        """Return the models on this pod's disk. Compares file sizes only; `ensure` compares the contents.

        Raises OSError if MODELS_DIR itself cannot be read.
        """
        if not self._folder.is_dir():
            return []
        folders = (folder for folder in sorted(self._folder.iterdir()) if not folder.name.startswith("."))
        return [folder.name for folder in folders if _is_present(folder)]

    @property
    def has_bucket(self) -> bool:
        """True if a model bucket is configured."""
        return self._store is not None

    async def can_fetch(self) -> bool:
        """Return True if MODELS_DIR is writable; a read-only volume serves only the models that are stored on it."""
        try:
            await asyncio.to_thread(check_writable, "MODELS_DIR", self._folder)
        except SettingsError:
            return False
        return True

    async def in_bucket(self) -> list[str]:
        """Return the models in the model bucket. Raises StorageError."""
        if self._store is None:
            return []
        keys = [info.key for info in await self._store.list(self._bucket, BUCKET_PREFIX)]
        return sorted({key.removeprefix(BUCKET_PREFIX).split("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")})

    async def ensure(self, slug: str, *, may_evict: bool = True) -> Path:
        """Return the folder of a model that is complete and has the contents that were pushed.

        The first time in a process, compares every file with its checksum; afterwards only files that changed since.
        Downloads what is missing or damaged, and evicts the least recently used models to make space for it.

        Raises ModelMissing if the model is not stored anywhere, is damaged in the bucket or does not fit, or if this
        pod's disk fails; StorageError if the bucket cannot be read.
        """
        await self.begin_use(slug, may_evict=may_evict)
        self.end_use(slug)
        return slug_path(self._folder, slug)

    async def digest(self, slug: str) -> str:
        """Return what tells this version of a model from others, of its files on the disk or in the bucket.

        By their checksums, of a folder that was added by hand by their sizes and times of change: nothing is read for
        it. Raises ModelMissing and StorageError as `ensure` does.
        """
        path = slug_path(self._folder, slug)
        manifest = await asyncio.to_thread(read_manifest, path)
        if manifest is None and await asyncio.to_thread(path.is_dir):
            return await asyncio.to_thread(_signature, path)
        if manifest is None and self._store is not None:
            manifest = await read_bucket_manifest(slug, self._store, self._bucket)
        if manifest is None:
            raise model_missing(slug, "is missing on this pod's disk and in the model bucket")
        return digest_of(sorted((name, file.sha256) for name, file in manifest.files.items()))

    async def begin_use(self, slug: str, *, may_evict: bool = True) -> Path:
        """Like `ensure`, and protect the model from eviction by any process until `end_use`."""
        path = slug_path(self._folder, slug)
        try:
            await self._leases.acquire(slug)
            try:
                if not await self._is_undamaged(slug, path):
                    await self._fetch_once(slug, path, may_evict)
                self._verified.add(slug)
            except BaseException:
                self._leases.release(slug)
                raise
        except (OSError, StorageError) as error:
            disk_error = _disk_error(error)
            if disk_error is None:
                raise
            problem = f"cannot be read from or downloaded to MODELS_DIR ({disk_error.strerror})"
            raise model_missing(slug, problem) from error
        return path

    def end_use(self, slug: str) -> None:
        """End a use that `begin_use` began. Until other models are used, the model still counts as loaded."""
        self._leases.release(slug)

    async def _fetch_once(self, slug: str, path: Path, may_evict: bool) -> None:
        """Download the model unless another process did while this one waited for the lock."""
        async with fetch_lock(self._folder, slug):
            if not await self._is_undamaged(slug, path):
                await self._fetch(slug, path, may_evict)

    async def _is_undamaged(self, slug: str, path: Path) -> bool:
        return await asyncio.to_thread(is_undamaged, path, thorough=slug not in self._verified)

    async def _fetch(self, slug: str, path: Path, may_evict: bool) -> None:
        """Download a model from the bucket. Keeps intact files of a damaged model or an interrupted download."""
        if self._store is None:
            raise model_missing(slug, "is missing or incomplete on this pod's disk, and no model bucket is configured")
        manifest = await read_bucket_manifest(slug, self._store, self._bucket)
        if manifest is None:
            raise model_missing(slug, "is missing or incomplete on this pod's disk, and missing in the model bucket")
        partial = partial_path(self._folder, slug)
        try:
            await asyncio.to_thread(prepare_partial, slug, path, partial, manifest)
            await self._reserve_space(slug, manifest, may_evict)
            for name, file in manifest.files.items():
                await self._fetch_file(slug, name, file, partial / name, self._store)
            await asyncio.to_thread(install, partial, path, manifest)
        except (OSError, StorageError) as error:
            disk_error = _disk_error(error)
            if disk_error is None or disk_error.errno not in _DISK_FULL_ERRORS:
                raise
            # Deleted, because it would keep the disk full for all processes.
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
            size_gb = manifest.size_bytes / 1e9
            raise model_missing(
                slug, f"needs {size_gb:.1f} GB, and this pod's disk became full while it was downloading"
            ) from error

    async def _reserve_space(self, slug: str, manifest: Manifest, may_evict: bool) -> None:
        """Refuse a model that does not fit before downloading it for hours. Lists the bucket only to evict."""
        try:
            await asyncio.to_thread(self._disk_space.reserve, slug, manifest.size_bytes, ())
        except InsufficientDiskSpace as error:
            if not may_evict:
                raise model_missing(slug, str(error)) from error
            try:
                await asyncio.to_thread(self._disk_space.reserve, slug, manifest.size_bytes, await self.in_bucket())
            except InsufficientDiskSpace as final:
                raise model_missing(slug, str(final)) from final

    async def _fetch_file(self, slug: str, name: str, file: ModelFile, target: Path, store: ObjectStore) -> None:
        if await asyncio.to_thread(matches, target, file):
            return
        for _ in range(2):  # twice, because the network may have damaged the first download
            try:
                await store.download(self._bucket, f"{BUCKET_PREFIX}{slug}/{name}", target)
            except InputMissing as error:
                raise model_missing(slug, f"is incomplete in the model bucket, where {name} is missing") from error
            if await asyncio.to_thread(matches, target, file):
                return
        await asyncio.to_thread(target.unlink)
        raise model_missing(slug, f"is damaged in the model bucket ({name})")


class JobModels:
    """The models that one attempt uses, protected from eviction until it ends."""

    def __init__(self, models: BaseModels) -> None:
        self._models = models
        self._used: list[str] = []

    async def ensure(self, slug: str) -> Path:
        """Return the folder of a model, as `BaseModels.ensure` does."""
        path = await self._models.begin_use(slug)
        self._used.append(slug)
        return path

    async def digest(self, slug: str) -> str:
        """Return what tells this version of a model from others, as `BaseModels.digest` does."""
        return await self._models.digest(slug)

    async def ensure_upscaler(self, scale: int) -> Path:
        """Return the weights of the upscaler for `scale` 2 or 4. Raises ModelMissing as `ensure` does."""
        if scale not in UPSCALERS:
            raise InvalidInput(f"upscaling by {scale} is not supported: use 2 or 4")
        slug = UPSCALERS[scale]
        path = await self.ensure(slug) / UPSCALER_FILE
        if not await asyncio.to_thread(path.is_file):
            raise model_missing(slug, f"is incomplete: {UPSCALER_FILE} is missing")
        return path

    def end(self) -> None:
        """Release all models when the attempt ends."""
        while self._used:
            self._models.end_use(self._used.pop())


async def read_bucket_manifest(slug: str, store: ObjectStore, bucket: str) -> Manifest | None:
    """Return the manifest of a model in the bucket, None if it is missing. Raises ModelMissing if it is damaged."""
    try:
        return Manifest.model_validate_json(await store.read(bucket, f"{BUCKET_PREFIX}{slug}/{MANIFEST}"))
    except InputMissing:
        return None
    except ValidationError as error:
        raise model_missing(slug, f"has a damaged {MANIFEST} in the model bucket") from error


def _signature(folder: Path) -> str:
    files = [(path.relative_to(folder).as_posix(), path.stat()) for path in model_files(folder)]
    return digest_of([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files])


def _is_present(folder: Path) -> bool:
    """Return True if the model is complete. One that cannot be read is logged, and must not hide the others."""
    try:
        return is_complete(folder)
    except OSError as error:
        log.warning("model.unreadable", model=folder.name, reason=error.strerror)
        return False


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the disk's error in an exception or its causes, None if the store or the network failed."""
    while error is not None:
        # A deadline's TimeoutError has no errno. A connection's errors have one, but belong to the store.
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            return error
        error = error.__cause__
    return None

"""Upload a model from this machine's disk to the model bucket."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from worker.errors import CommandRefused, InvalidInput, truncate_list
from worker.models.bases import read_bucket_manifest
from worker.models.integrity import is_complete
from worker.models.manifest import MANIFEST, Manifest, build_manifest, damaged_files, read_manifest, write_manifest
from worker.models.names import BUCKET_PREFIX, slug_path
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import PART_BYTES

PARALLEL_UPLOADS = 3
MIN_BYTES_PER_S = 1e6
"""The slowest supported connection; deadlines of uploads allow for it."""


@dataclass(frozen=True)
class PushResult:
    """The size of a pushed model, and how much of it was not in the bucket before."""

    size_bytes: int
    sent_bytes: int


class Push:
    """The upload of one model. Safe to repeat: files whose contents are in the bucket are not sent again."""

    def __init__(self, models_dir: Path, slug: str, store: ObjectStore, bucket: str) -> None:
        self._models_dir = models_dir
        self._folder = slug_path(models_dir, slug)
        self._slug = slug
        self._store = store
        self._bucket = bucket
        self._sent_bytes = 0

    async def check(self) -> Manifest:
        """Read every file and return the manifest to push. Raises CommandRefused for an incomplete or damaged model."""
        if not await asyncio.to_thread(is_complete, self._folder):
            raise CommandRefused(
                f"{self._slug} is missing or incomplete in {self._models_dir}: see `worker models list`"
            )
        manifest = await asyncio.to_thread(read_manifest, self._folder)
        if manifest is None:
            return await asyncio.to_thread(build_manifest, self._folder)
        damaged = await asyncio.to_thread(damaged_files, self._folder, manifest.files)
        if damaged:
            raise CommandRefused(
                f"{self._slug} is damaged on this disk, files differ from {MANIFEST}: {truncate_list(damaged)}. Delete "
                f"{self._folder} and install the model again; if you changed it on purpose, delete only "
                f"{self._folder / MANIFEST}"
            )
        return manifest

    async def run(self, manifest: Manifest, on_bytes: Callable[[int], None]) -> PushResult:
        """Upload the files and then the manifest, so that pods ignore a push that was interrupted.

        `on_bytes` is called with the number of bytes that are now in the bucket, whether sent or present before. Raises
        CommandRefused and StorageError.
        """
        await self._delete_outdated_manifest(manifest)
        stored = {info.key: info for info in await self._store.list(self._bucket, f"{BUCKET_PREFIX}{self._slug}/")}
        limit = asyncio.Semaphore(PARALLEL_UPLOADS)

        async def send(name: str, size_bytes: int) -> None:
            async with limit:
                found = stored.get(self._key(name))
                same_size = found is not None and found.size == size_bytes
                if found and same_size and await asyncio.to_thread(etag_of, self._folder / name) == found.etag:
                    on_bytes(size_bytes)
                else:
                    await self._upload(name, size_bytes, on_bytes)
                    self._sent_bytes += size_bytes

        try:
            async with asyncio.TaskGroup() as uploads:
                for name, file in manifest.files.items():
                    uploads.create_task(send(name, file.size_bytes))
        except ExceptionGroup as group:
            first = group.exceptions[0]
            raise first from first.__cause__
        await self._publish_manifest(manifest, stored)
        return PushResult(manifest.size_bytes, self._sent_bytes)

    async def _publish_manifest(self, manifest: Manifest, stored: Collection[str]) -> None:
        """Delete the objects of an earlier push and upload the manifest."""
        current = {self._key(name) for name in (*manifest.files, MANIFEST)}
        await self._store.delete(self._bucket, [key for key in stored if key not in current])
        await asyncio.to_thread(write_manifest, self._folder, manifest)
        await self._store.upload(self._bucket, self._key(MANIFEST), self._folder / MANIFEST, "application/json")

    async def _delete_outdated_manifest(self, manifest: Manifest) -> None:
        """Delete a manifest with other contents: while files are replaced, the bucket contains neither version."""
        old = await read_bucket_manifest(self._slug, self._store, self._bucket)
        if old is not None and old.files != manifest.files:
            await self._store.delete(self._bucket, [self._key(MANIFEST)])

    async def _upload(self, name: str, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        key, path = self._key(name), self._folder / name
        deadline_s = 300 + size_bytes / MIN_BYTES_PER_S
        try:
            await self._store.upload(self._bucket, key, path, content_type, deadline_s, on_bytes)
        except InvalidInput as error:
            raise CommandRefused(
                f"the store refused {name} ({size_bytes / 1e9:.2f} GB) as too large: raise the upload limit of the "
                f"bucket {self._bucket} and of the project (Supabase: Storage → Settings → Upload file size limit; the "
                "free plan allows 50 MB) and push again; uploaded files are kept"
            ) from error

    def _key(self, name: str) -> str:
        return f"{BUCKET_PREFIX}{self._slug}/{name}"


def etag_of(path: Path) -> str:
    """Return the ETag that a store gives a file uploaded by this worker: its MD5, or that of its parts' MD5s.

    A store that encrypts with keys of its own computes another one; then the file is sent again.
    """
    with path.open("rb") as content:
        if path.stat().st_size < PART_BYTES:
            return hashlib.md5(content.read(), usedforsecurity=False).hexdigest()
        parts = [
            hashlib.md5(part, usedforsecurity=False).digest() for part in iter(lambda: content.read(PART_BYTES), b"")
        ]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"

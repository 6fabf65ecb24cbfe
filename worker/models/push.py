"""From this machine's disk to the model bucket."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.errors import CommandRefused, InvalidInput
from worker.models.bases import is_whole, read_bucket_manifest
from worker.models.manifest import MANIFEST, Manifest, damaged, describe, read_manifest, write_manifest
from worker.models.names import PREFIX, slug_path
from worker.storage.object_store import PART_BYTES, ObjectStore

PARALLEL_UPLOADS = 3
SLOWEST_LINE = 1e6
"""Bytes a second that a line must carry; an upload gets the time that this one needs."""


@dataclass(frozen=True)
class Pushed:
    """What a push did, in bytes."""

    size_bytes: int
    sent_bytes: int


class Push:
    """One model on its way to the bucket. Safe to repeat: what is there with the same contents is not sent again."""

    def __init__(self, models_dir: Path, slug: str, store: ObjectStore, bucket: str) -> None:
        self._models_dir = models_dir
        self._folder = slug_path(models_dir, slug)
        self._slug = slug
        self._store = store
        self._bucket = bucket
        self._sent_bytes = 0

    async def describe(self) -> Manifest:
        """What is to be sent. Reads all of it; raises CommandRefused when it is not whole or not as it was."""
        if not await asyncio.to_thread(is_whole, self._folder):
            raise CommandRefused(f"{self._slug} is not whole in {self._models_dir}: see `worker models list`")
        known = await asyncio.to_thread(read_manifest, self._folder)
        if known is None:
            return await asyncio.to_thread(describe, self._folder)
        wrong = await asyncio.to_thread(damaged, self._folder, known.files)
        if wrong:
            raise CommandRefused(
                f"{self._slug} is damaged on this disk ({', '.join(wrong[:5])}): the contents are not what "
                f"{MANIFEST} says. Remove {self._folder} and get it again; if you changed it yourself, remove only "
                f"{self._folder / MANIFEST}"
            )
        return known

    async def run(self, manifest: Manifest, on_bytes: Callable[[int], None]) -> Pushed:
        """Upload, the manifest last: a push that was interrupted is never taken for a whole model.

        `on_bytes` hears of every byte that is in the bucket, sent or not. Raises CommandRefused and StorageError.
        """
        await self._take_old_manifest_away(manifest)
        there = {info.key: info for info in await self._store.list(self._bucket, f"{PREFIX}{self._slug}/")}
        limit = asyncio.Semaphore(PARALLEL_UPLOADS)

        async def send(name: str, size_bytes: int) -> None:
            async with limit:
                found = there.get(self._key(name))
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
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        wanted = {self._key(name) for name in manifest.files}
        await self._store.delete(self._bucket, [key for key in there if key not in {*wanted, self._key(MANIFEST)}])
        await asyncio.to_thread(write_manifest, self._folder, manifest)
        await self._store.upload(self._bucket, self._key(MANIFEST), self._folder / MANIFEST, "application/json")
        return Pushed(manifest.size_bytes, self._sent_bytes)

    async def _take_old_manifest_away(self, manifest: Manifest) -> None:
        """While other contents replace the old ones, what is there is neither."""
        old = await read_bucket_manifest(self._slug, self._store, self._bucket)
        if old is not None and old.files != manifest.files:
            await self._store.delete(self._bucket, [self._key(MANIFEST)])

    async def _upload(self, name: str, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        deadline_s = 300 + size_bytes / SLOWEST_LINE
        try:
            await self._store.upload(self._bucket, self._key(name), self._folder / name, kind, deadline_s, on_bytes)
        except InvalidInput as error:
            raise CommandRefused(
                f"the store refused {name}, {size_bytes / 1e9:.2f} GB, as too large: raise the upload limit of the "
                f"bucket {self._bucket} and of the project (Supabase: Storage settings, Upload file size limit; the "
                "free plan ends at 50 MB) and push again; what was sent stays"
            ) from error

    def _key(self, name: str) -> str:
        return f"{PREFIX}{self._slug}/{name}"


def etag_of(path: Path) -> str:
    """What a store calls the contents of a file that this worker uploaded: MD5, of the parts where there are several.

    Stores that encrypt with keys of their own answer otherwise; then the file is sent again.
    """
    with path.open("rb") as content:
        if path.stat().st_size < PART_BYTES:
            return hashlib.md5(content.read(), usedforsecurity=False).hexdigest()
        parts = [
            hashlib.md5(part, usedforsecurity=False).digest() for part in iter(lambda: content.read(PART_BYTES), b"")
        ]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"

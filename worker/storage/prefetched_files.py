"""A person's objects that a pod downloads for a waiting job: its photos and its checkpoint.

They are in the person's cache, so they are deleted when the person no longer consents. The attempt moves each into its
own folder; what is left, because another pod ran the job, is deleted with the next guess.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from worker.storage.object_store import ObjectInfo, ObjectStore
from worker.storage.workspace import Workspace

MAX_BYTES = 2_000_000_000
"""Of one job: a guess must not fill the disk."""


class PrefetchedFiles:
    """The files of one waiting job."""

    def __init__(self, store: ObjectStore, workspace: Workspace) -> None:
        self._store = store
        self._workspace = workspace
        self._newest: Path | None = None

    async def fetch(self, subject_id: UUID, purpose: str, objects: Iterable[tuple[str, str]]) -> None:
        """Download these (bucket, key) unless they are there; ends when the person's cache is deleted meanwhile."""
        folder = self._folder(subject_id, purpose)
        if self._newest not in (None, folder):
            await asyncio.to_thread(shutil.rmtree, self._newest, ignore_errors=True)
        self._newest = folder
        folder.mkdir(parents=True, exist_ok=True)
        fetched = 0
        for bucket, key in objects:
            found = await self._store.head(bucket, key)
            if found is None or not found.etag or fetched + found.size > MAX_BYTES:
                continue
            if not folder.exists():
                return
            path = folder / _name(bucket, found)
            if not path.exists():
                await self._store.download(bucket, key, path)
            fetched += found.size

    async def take(
        self, subject_id: UUID | None, purpose: str | None, bucket: str, key: str, path: Path, found: ObjectInfo | None
    ) -> bool:
        """Move an object to `path` if it was fetched and is the same now; `found` is its metadata, where known."""
        if subject_id is None or purpose is None or not (folder := self._folder(subject_id, purpose)).exists():
            return False
        found = found or await self._store.head(bucket, key)
        if found is None or not found.etag:
            return False
        return await asyncio.to_thread(_move, folder / _name(bucket, found), path)

    def _folder(self, subject_id: UUID, purpose: str) -> Path:
        return self._workspace.cache(subject_id, purpose) / "prefetched"


def _name(bucket: str, found: ObjectInfo) -> str:
    """Return a name that another version of the object does not have."""
    version = f"{bucket}/{found.key} {found.etag} {found.size}"
    return hashlib.sha256(version.encode()).hexdigest()


def _move(source: Path, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except FileNotFoundError:
        return False
    return True

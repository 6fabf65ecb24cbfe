"""Objects of people that a pod downloads for a waiting job: photos, references, the checkpoint.

Each is in the cache of the person it shows, so it is deleted when that person no longer consents. The attempt moves
each into its own folder; what is left, because another pod ran the job, is deleted with the next guess.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
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
        self._newest: set[Path] = set()
        """The folders of the last guess, one for each person in it."""

    async def fetch(self, purpose: str, objects: Mapping[UUID, Iterable[tuple[str, str]]]) -> None:
        """Download the objects (bucket, key) of each person unless they are there."""
        folders = {self._folder(subject_id, purpose) for subject_id in objects}
        for other in self._newest - folders:
            await asyncio.to_thread(shutil.rmtree, other, ignore_errors=True)
        self._newest = folders
        fetched = 0
        for subject_id, named in objects.items():
            fetched = await self._fetch_of(subject_id, purpose, named, fetched)

    async def _fetch_of(self, subject_id: UUID, purpose: str, objects: Iterable[tuple[str, str]], fetched: int) -> int:
        """Download a person's objects; ends when the person's cache is deleted meanwhile.

        `fetched` bytes were counted before; returns how many are now.
        """
        folder = self._folder(subject_id, purpose)
        folder.mkdir(parents=True, exist_ok=True)
        for bucket, key in objects:
            found = await self._store.head(bucket, key)
            if found is None or not found.etag or fetched + found.size > MAX_BYTES:
                continue
            if not folder.exists():
                return fetched
            path = folder / _name(bucket, found)
            if not path.exists():
                await self._store.download(bucket, key, path)
            fetched += found.size
        return fetched

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


def person_of(key: str) -> UUID | None:
    """Return the person under whose prefix in the uploads bucket a key is, as `worker.key_subject` does."""
    named = re.match(r"[^/]+/([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})/", key)
    return UUID(named[1]) if named else None


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

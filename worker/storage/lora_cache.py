"""LoRAs on a pod's disk, a folder for each person, gone when the person's consent ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import defaultdict
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from worker.errors import InvalidInput
from worker.storage.object_store import ObjectStore
from worker.storage.workspace import Workspace

KEEP = 64
"""Files on the disk; the least recently used are deleted first."""


class StoredLora(BaseModel):
    """A LoRA in the models bucket, as far as fetching it needs to know it. A handler's model may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: UUID
    subject_id: UUID | None
    """The person it shows."""
    path: str
    """Its key."""
    sha256: str


class LoraCache:
    """What arrives must be what was published: the database has its SHA-256."""

    def __init__(self, store: ObjectStore, bucket: str, workspace: Workspace) -> None:
        self._store = store
        self._bucket = bucket
        self._workspace = workspace
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._forgotten: defaultdict[UUID | None, int] = defaultdict(int)
        self._all_forgotten = 0

    async def get(self, lora: StoredLora, workdir: Path) -> tuple[Path, int]:
        """Return the file, and how many bytes were fetched for it (0: it was here).

        Raises InputMissing when it is not in storage and InvalidInput when it is not the published file.
        """
        async with self._fetching[lora.sha256]:
            cached = self._workspace.cached_lora(lora.subject_id, lora.sha256)
            if await asyncio.to_thread(_touch, cached):
                return cached, 0
            before = self._forgotten[lora.subject_id], self._all_forgotten
            arriving = workdir / f"{lora.id}.safetensors"
            await self._store.download(self._bucket, lora.path, arriving)
            size = (await asyncio.to_thread(arriving.stat)).st_size
            if await asyncio.to_thread(_sha256, arriving) != lora.sha256:
                raise InvalidInput(f"LoRA {lora.id} in storage is not the one that was published: train it again")
            if (self._forgotten[lora.subject_id], self._all_forgotten) != before:
                return arriving, size  # consent ended meanwhile: nothing is kept beyond this attempt
            cached.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(cached)
            await asyncio.to_thread(self._workspace.trim, KEEP)
            return cached, size

    def forget_all(self) -> None:
        """After a while without word from the database nobody knows whose consent ended."""
        self._all_forgotten += 1
        self._workspace.forget_all()

    def forget(self, subject_id: UUID) -> bool:
        """Delete what is cached of a person; True if there was anything."""
        self._forgotten[subject_id] += 1
        return self._workspace.forget(subject_id)


def _touch(path: Path) -> bool:
    """Mark a cached file as used just now; False when there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""LoRAs on a pod's disk, in a folder for each person, which is deleted when the person's consent ends."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from worker.errors import InvalidInput
from worker.storage.checksums import sha256_of
from worker.storage.object_store import ObjectStore
from worker.storage.workspace import Workspace

KEEP = 64
"""Files on the disk; the least recently used are deleted first."""


class StoredLora(BaseModel):
    """A LoRA in the models bucket, with the fields that downloading needs. A handler's model may have more."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: UUID
    subject_id: UUID | None
    """The person it shows."""
    path: str
    """Its key."""
    sha256: str


class LoraCache:
    """A cache of verified LoRAs: a downloaded file must have the SHA-256 that the database stores."""

    def __init__(self, store: ObjectStore, bucket: str, workspace: Workspace) -> None:
        self._store = store
        self._bucket = bucket
        self._workspace = workspace
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._forgotten: defaultdict[UUID | None, int] = defaultdict(int)
        self._all_forgotten = 0

    async def get(self, lora: StoredLora, workdir: Path) -> tuple[Path, int]:
        """Return the file, and how many bytes were downloaded for it (0: it was cached).

        Raises InputMissing if it is not in storage and InvalidInput if it is not the published file.
        """
        async with self._fetching[lora.sha256]:
            cached = self._workspace.cached_lora(lora.subject_id, lora.sha256)
            if await asyncio.to_thread(_touch, cached):
                return cached, 0
            before = self._forgotten[lora.subject_id], self._all_forgotten
            arriving = workdir / f"{lora.id}.safetensors"
            await self._store.download(self._bucket, lora.path, arriving)
            size = (await asyncio.to_thread(arriving.stat)).st_size
            if await asyncio.to_thread(sha256_of, arriving) != lora.sha256:
                raise InvalidInput(f"LoRA {lora.id} in storage is not the one that was published: train it again")
            if (self._forgotten[lora.subject_id], self._all_forgotten) != before:
                return arriving, size  # consent ended meanwhile: the file is deleted with this attempt
            cached.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(cached)
            await asyncio.to_thread(self._workspace.trim, KEEP)
            return cached, size

    def forget_all(self) -> None:
        """Delete every cached LoRA: after a silence of the database it is unknown whose consent ended."""
        self._all_forgotten += 1
        self._workspace.forget_all()

    def forget(self, subject_id: UUID) -> bool:
        """Delete the cached LoRAs of a person. Return True if there were any."""
        self._forgotten[subject_id] += 1
        return self._workspace.forget(subject_id)


def _touch(path: Path) -> bool:
    """Mark a cached file as used now. Return False if it does not exist."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True

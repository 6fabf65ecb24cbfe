"""LoRAs on a pod's disk, in the cache of the person whom each shows."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from copy import copy
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

    def __init__(self, store: ObjectStore, bucket: str, workspace: Workspace, purpose: str | None = None) -> None:
        self._store = store
        self._bucket = bucket
        self._workspace = workspace
        self._purpose = purpose
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def for_purpose(self, purpose: str | None) -> LoraCache:
        """Return the cache for LoRAs that are used for this purpose, to which the people in them have consented."""
        cache = copy(self)
        cache._purpose = purpose
        return cache

    async def get(self, lora: StoredLora, workdir: Path) -> tuple[Path, int]:
        """Return the file, and how many bytes were downloaded for it (0: it was cached).

        Raises InputMissing if it is not in storage and InvalidInput if it is not the published file.
        """
        async with self._fetching[lora.sha256]:
            cached = self._workspace.cache(lora.subject_id, self._purpose) / f"{lora.sha256}.safetensors"
            if await asyncio.to_thread(_touch, cached):
                return cached, 0
            arriving = workdir / f"{lora.id}.safetensors"
            await self._store.download(self._bucket, lora.path, arriving)
            size = (await asyncio.to_thread(arriving.stat)).st_size
            if await asyncio.to_thread(sha256_of, arriving) != lora.sha256:
                raise InvalidInput(f"LoRA {lora.id} in storage is not the one that was published: train it again")
            cached.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(cached)
            await asyncio.to_thread(self._workspace.trim, KEEP)
            return cached, size


def _touch(path: Path) -> bool:
    """Mark a cached file as used now. Return False if it does not exist."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True

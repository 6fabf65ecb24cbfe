"""LoRAs on a pod's disk, a folder for each person, gone when the person's consent ends."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from pathlib import Path
from uuid import UUID

from worker.errors import InvalidInput
from worker.jobs import TrainedModel
from worker.storage import ObjectStore
from worker.workspace import Workspace


class LoraCache:
    """What arrives must be what was published: its SHA-256 stands in the database."""

    def __init__(self, store: ObjectStore, bucket: str, workspace: Workspace) -> None:
        self._store = store
        self._bucket = bucket
        self._workspace = workspace
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._forgotten: defaultdict[UUID | None, int] = defaultdict(int)

    async def get(self, model: TrainedModel, workdir: Path) -> tuple[Path, int]:
        """The file, and how many bytes were fetched for it (0: it was here).

        Raises InputMissing when it is not in storage and InvalidInput when it is not the published file.
        """
        async with self._fetching[model.sha256]:
            cached = self._workspace.cached_lora(model.subject_id, model.sha256)
            if cached.exists():
                return cached, 0
            before = self._forgotten[model.subject_id]
            arriving = workdir / f"{model.id}.safetensors"
            await self._store.download(self._bucket, model.path, arriving)
            size = (await asyncio.to_thread(arriving.stat)).st_size
            if await asyncio.to_thread(_sha256, arriving) != model.sha256:
                raise InvalidInput(f"LoRA {model.id} in storage is not the one that was published: train it again")
            if self._forgotten[model.subject_id] != before:
                return arriving, size  # consent ended meanwhile: nothing is kept beyond this attempt
            return arriving.replace(cached), size

    def forget(self, subject_id: UUID) -> bool:
        """Delete what is cached of a person; True if there was anything."""
        self._forgotten[subject_id] += 1
        return self._workspace.forget(subject_id)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

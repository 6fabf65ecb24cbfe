"""The sweep: deletes deletable objects, which ended attempts left, from our own buckets, a hundred at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta

import structlog
from psycopg.types.json import Jsonb

from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.errors import StorageError
from worker.storage.marker import read_markers
from worker.storage.object_store import ObjectStore

log = structlog.get_logger()

SWEEP_LIMIT = 100
UNFINISHED_UPLOAD_AGE = timedelta(0)
"""An unfinished upload to a deletable key belongs to an attempt that has ended, so it is aborted whatever its age."""


class Sweep:
    """Sweeps on request: after a tick that found deletable objects."""

    def __init__(self, database: Database, store: ObjectStore, buckets: Collection[str]) -> None:
        self._database = database
        self._store = store
        self._buckets = sorted(buckets)
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Sweep as soon as the sweep before has ended."""
        self._requested.set()

    async def run(self) -> None:
        """Sweep whenever that is requested; never returns."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            with suppress_transient_errors("sweep.failed", StorageError):
                await self._sweep()

    async def _sweep(self) -> None:
        # The objects were marked as deletable and committed before; claimed ones are offered again after a while.
        # Only of buckets whose marker, read just now, is ours: a copy of the database knows the same keys.
        seen = await read_markers(self._store, self._buckets)
        claimed = await self._database.call_once("claim_deletable_objects", SWEEP_LIMIT, Jsonb(seen))
        for bucket in {item["bucket"] for item in claimed}:
            items = [item for item in claimed if item["bucket"] == bucket]
            try:
                await self._store.delete(bucket, [item["key"] for item in items])
                for item in items:
                    await self._store.abort_uploads(bucket, item["key"], UNFINISHED_UPLOAD_AGE)
            except StorageError as error:
                log.warning("sweep.failed", bucket=bucket, code=error.code, error=error.message)
                continue
            await self._database.call("mark_objects_deleted", [item["id"] for item in items])
            log.info("objects.deleted", bucket=bucket, objects=len(items))

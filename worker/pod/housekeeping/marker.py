"""The marker renewal: every five minutes one pod of the installation renews the markers of its buckets.

The database decides who looks, whether the markers may be renewed, and with which nonce (sql/installation.sql). A
renewal that breaks is repeated with the same nonce.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import structlog
from psycopg.types.json import Jsonb

from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors
from worker.errors import StorageError
from worker.storage.marker import read_markers, write_marker
from worker.storage.object_store import ObjectStore

log = structlog.get_logger()

LOOK_AGAIN_AFTER_FAILURE_S = 5.0


class MarkerRenewal:
    """Looks at the markers whenever the database says that it is this pod's turn."""

    def __init__(self, database: Database, store: ObjectStore, buckets: Collection[str]) -> None:
        self._database = database
        self._store = store
        self._buckets = sorted(buckets)
        self._settled_as: str | None = None
        """What the database said when it was last settled: this process was connected to it then."""
        self._logged: dict[str, Any] = {}

    async def run(self) -> None:
        """Look and renew; never returns."""
        while True:
            pause_s = LOOK_AGAIN_AFTER_FAILURE_S
            with suppress_transient_errors("markers.failed", StorageError):
                pause_s = await self.look_if_due()
            await asyncio.sleep(pause_s)

    async def look_if_due(self) -> float:
        """Look at the markers and renew them, if it is this pod's turn. Returns the seconds until it may be."""
        turn = await self._database.call_once("claim_look", self._settled_as)
        self._settled_as = turn["settled_as"] or self._settled_as
        if turn["wait_s"] == 0:
            noted = await self._database.call_once(
                "note_markers", Jsonb(await read_markers(self._store, self._buckets))
            )
            self._log_changes(noted)
            await self._renew([bucket for bucket, found in noted.items() if found["state"] == "ours"])
        return float(turn["wait_s"])

    async def _renew(self, buckets: list[str]) -> None:
        marker = await self._database.call_once("begin_renewal") if buckets else None
        if marker is not None:
            for bucket in buckets:
                await write_marker(self._store, bucket, marker)
            await self._database.call("finish_renewal", marker["nonce"])

    def _log_changes(self, noted: dict[str, Any]) -> None:
        for bucket, found in noted.items():
            if found != self._logged.get(bucket):
                self._logged[bucket] = found
                show = log.info if found["state"] == "ours" else log.error
                show("bucket.marker", bucket=bucket, state=found["state"], reason=found["hold"])

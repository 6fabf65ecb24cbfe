"""Claim jobs with pgqueuer's queries over the pod's pool. The rest of the worker uses two methods, not pgqueuer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Self, cast
from uuid import UUID

import psycopg
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import Channel, QueueEntrypoint
from pgqueuer.ports.driver import NotifyCallback
from pgqueuer.ports.repository import EntrypointExecutionParameter
from psycopg.rows import dict_row

from worker.database.pool import Database

QUEUE_CHANNEL = "likeness_queue"

_NEVER = timedelta(days=3650)
"""pgqueuer's own takeover of stale rows is off: only the reaper takes jobs over, and it counts the failure."""


class ClaimQueue:
    """The queue as one pod claims from it."""

    def __init__(self, database: Database, pod_id: UUID) -> None:
        settings = DBSettings(
            prefix="",
            db_schema="worker",
            queue_table="pgqueuer",
            queue_table_log="pgqueuer_log",
            statistics_table="pgqueuer_statistics",
            schedules_table="pgqueuer_schedules",
            queue_status_type="pgqueuer_status",
            function="fn_pgqueuer_changed",
            trigger="tg_pgqueuer_changed",
            channel=Channel(QUEUE_CHANNEL),
        )
        self._pod_id = pod_id
        self._queries = Queries(
            _PoolDriver(database), qbe=QueryBuilderEnvironment(settings), qbq=QueryQueueBuilder(settings)
        )

    async def claim(self, routes: list[str]) -> tuple[str, UUID] | None:
        """Claim one job of these routes for this pod: its kind and id, or None.

        Not retried: no heartbeat names a claim whose reply was lost, so it is requeued after `claim_unnamed` of
        `worker.timing`.
        """
        jobs = await self._queries.dequeue(
            batch_size=1,
            entrypoints={QueueEntrypoint(route): EntrypointExecutionParameter(0) for route in routes},
            queue_manager_id=cast(Any, self._pod_id),
            global_concurrency_limit=None,
            heartbeat_timeout=_NEVER,
        )
        if not jobs or jobs[0].payload is None:
            return None
        return jobs[0].entrypoint.split("/")[0], UUID(jobs[0].payload.decode())


class _PoolDriver:
    """pgqueuer's driver protocol over the pool. It never listens: notifications arrive on the session connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shutdown = asyncio.Event()

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        async with self._database.pooled() as connection:
            cursor = psycopg.AsyncRawCursor(connection, row_factory=dict_row)
            try:
                await cursor.execute(query, args or None)
            except psycopg.errors.FeatureNotSupported as error:
                # The prepared claim returns every column of a table that has another column now.
                await connection.close()
                raise psycopg.OperationalError("the queue's tables have changed: claim on a new connection") from error
            return cast(list[dict[str, object]], await cursor.fetchall())

    async def execute(self, query: str, *args: object) -> str:
        async with self._database.pooled() as connection:
            cursor = psycopg.AsyncRawCursor(connection)
            await cursor.execute(query, args or None)
            return cursor.statusmessage or ""

    async def notify(self, channel: str, payload: str) -> None:
        await self.fetch("select pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        raise RuntimeError(f"listen to {channel} on the session connection instead")

    @property
    def tm(self) -> Any:
        raise RuntimeError("this driver has no background tasks")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.shutdown.set()

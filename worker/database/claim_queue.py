"""Claim jobs with pgqueuer's queries over the pod's pool. The rest of the worker uses one method, not pgqueuer."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
import structlog
from pgqueuer.adapters.persistence.qb import QueryQueueBuilder
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import Channel, QueueEntrypoint
from psycopg.rows import dict_row

from worker.database.pool import Database

log = structlog.get_logger()

QUEUE_CHANNEL = "likeness_queue"

_NEVER = timedelta(days=3650)
"""pgqueuer's own takeover of stale rows is off: only the reaper takes jobs over, and it counts the failure."""


class ClaimQueue:
    """The queue as one pod claims from it."""

    def __init__(self, database: Database, pod_id: UUID) -> None:
        self._database = database
        self._pod_id = pod_id
        self._queries = QueryQueueBuilder(
            DBSettings(
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
        )

    async def claim(self, routes: list[str]) -> tuple[str, UUID] | None:
        """Claim one job of these routes for this pod: its kind and id, or None.

        Not retried: no heartbeat names a claim whose reply was lost, so it is requeued after `claim_unnamed` of
        `worker.timing`.
        """
        query = self._queries.build_dequeue_query(
            batch_size=1,
            entrypoints=[QueueEntrypoint(route) for route in routes],
            concurrency_limits=[0] * len(routes),
            queue_manager_id=cast(Any, self._pod_id),
            global_concurrency_limit=None,
            heartbeat_timeout=_NEVER,
        )
        while rows := await self._fetch(query.sql, *query.args):
            job = await self._job_of(rows[0])
            if job is not None:
                return job
        return None

    async def _job_of(self, row: dict[str, Any]) -> tuple[str, UUID] | None:
        """Return the job of a claimed row. A row whose route is not that of its job is deleted; the tick adds its own.

        From the key, which a constraint keeps readable, and not from the payload.
        """
        key = re.fullmatch(r"([a-z0-9_]+):([0-9a-f-]{36})", row["dedupe_key"] or "")
        if key is not None and key[1] == row["entrypoint"].split("/")[0]:
            return key[1], UUID(key[2])
        log.warning("claim.unusable", message="its queue row was deleted", row=row["id"], route=row["entrypoint"])
        await self._fetch("delete from worker.pgqueuer where id = $1 returning id", row["id"])
        return None

    async def _fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        async with self._database.pooled() as connection:
            async with connection.one_statement():
                cursor = psycopg.AsyncRawCursor(connection, row_factory=dict_row)
                await cursor.execute(query, arguments)
            return await cursor.fetchall()

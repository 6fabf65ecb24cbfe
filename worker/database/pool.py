"""The database as a pod reaches it: a small pool for statements, and one session connection for what needs a session.

Connections are few on small plans, so a pod holds three: two in the pool, one session; and one more for each
convenience copy while it is made. Nothing in the pool needs a session (no prepared statements, no LISTEN, no session
locks), so it may go through a transaction-mode pooler.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, LiteralString, Self, cast
from uuid import UUID

import psycopg
import stamina
import structlog
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import Channel, QueueEntrypoint
from pgqueuer.ports.driver import NotifyCallback
from pgqueuer.ports.repository import EntrypointExecutionParameter
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps
from psycopg_pool import AsyncConnectionPool
from pydantic_core import to_json

from worker.database.errors import explain_connection

log = structlog.get_logger()

set_json_dumps(lambda value: to_json(value).decode())

QUEUE_CHANNEL = "likeness_queue"
CANCEL_CHANNEL = "likeness_cancel"

KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "connect_timeout": 10,
}
"""A connection whose other end vanished is noticed after 11 to 15 s, not after two hours."""

RECONNECT_FOR_S = 5.0
"""Afterwards the next statement starts a connection anew."""

RETRY_FOR = timedelta(seconds=60)

_NEVER = timedelta(days=3650)
"""pgqueuer's own re-pick of stale rows is off: only the reaper takes over, and it charges the failure."""


def is_transient(error: Exception) -> bool:
    """Whether the same statement may succeed when it is sent again: a lost connection, a deadlock, a busy pooler."""
    return isinstance(
        error,
        psycopg.OperationalError  # PoolTimeout is one, and so are deadlocks and lock timeouts
        | psycopg.InterfaceError
        | psycopg.errors.InternalError_  # how Supabase's pooler says that it lost its connection
        | psycopg.errors.ReadOnlySqlTransaction  # a failover
        | psycopg.errors.IdleInTransactionSessionTimeout,
    )


class Database:
    """Statements over the pool. What a pod calls is safe to repeat, so a lost reply is asked for again."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None,
            "row_factory": dict_row,
            "application_name": f"likeness {name}"[:63],
            **KEEPALIVES,
        }
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[dict[str, Any]]] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=2,
            open=False,
            timeout=10,
            # Short, because the pool's own pauses double: past the grace of a silent pod they must not grow.
            reconnect_timeout=RECONNECT_FOR_S,
            kwargs=self._options,
        )

    async def __aenter__(self) -> Self:
        """Raises SettingsError when nobody answers at DATABASE_URL."""
        try:
            # The pool would try for long, and keep the reason to itself.
            await (await psycopg.AsyncConnection.connect(self._url, **self._options)).close()
        except psycopg.OperationalError as error:
            raise explain_connection(error, "DATABASE_URL") from error
        await self._pool.open(wait=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pool.close(timeout=2)

    async def call(self, function: LiteralString, *arguments: object) -> Any:
        """Call one SQL function as one autocommit statement; asks again after deadlocks and lost connections.

        Gives up after RETRY_FOR. Wrap what the function takes as jsonb in `Jsonb`.
        """
        return await self._call(RETRY_FOR, function, *arguments)

    async def call_until_answered(self, function: LiteralString, *arguments: object) -> Any:
        """The same without giving up: for what ends an attempt, whose lease outlives an outage of the database."""
        return await self._call(None, function, *arguments)

    async def _call(self, retry_for: timedelta | None, function: LiteralString, *arguments: object) -> Any:
        async for attempt in stamina.retry_context(
            on=is_transient, attempts=None, timeout=retry_for, wait_initial=0.02, wait_jitter=0.1, wait_max=2
        ):
            with attempt:
                return await self.call_once(function, *arguments)
        raise AssertionError("retry_context either returns or raises")

    async def call_once(self, function: LiteralString, *arguments: object) -> Any:
        """The same without a second try, for what the next heartbeat says anyway."""
        statement = sql.SQL("select worker.{}({})").format(
            sql.Identifier(function), sql.SQL(", ").join(sql.Placeholder() * len(arguments))
        )
        rows = await self.fetch(statement, list(arguments))
        return next(iter(rows[0].values()))

    async def fetch(
        self, statement: sql.Composed | LiteralString, arguments: list[Any] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of one statement."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, arguments)
            return await cursor.fetchall() if cursor.description else []

    def pooled(self) -> Any:
        """A connection of the pool, in a context that gives it back."""
        return self._pool.connection()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        """A transaction around an effect in storage, on a connection of its own.

        Not of the pool: while a store hangs, heartbeats go on.
        """
        async with (
            await psycopg.AsyncConnection[dict[str, Any]].connect(self._url, **self._options) as connection,
            connection.transaction(),
        ):
            yield connection


class ClaimQueue:
    """pgqueuer's storage and claim over our pool."""

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
        """Pick one job of these routes for this pod: its kind and id, or None.

        Never repeated blindly: a claim whose reply was lost is given back after 30 s because nobody names it.
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

    async def next_due_s(self, routes: list[str]) -> float | None:
        """Seconds until the next deferred job of these routes is due, None when there is none."""
        eta = await self._queries.next_deferred_eta([QueueEntrypoint(route) for route in routes])
        return None if eta is None else max(0.0, eta.total_seconds())


class _PoolDriver:
    """pgqueuer's driver protocol over the pool. It never listens: notifications have a connection of their own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shutdown = asyncio.Event()

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        async with self._database.pooled() as connection:
            cursor = psycopg.AsyncRawCursor(connection, row_factory=dict_row)
            await cursor.execute(query, args or None)
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

"""The database connections of a pod: a small pool, and calls of SQL functions over it.

Connections are few on small plans, so a pod holds three: two in the pool and one session (`worker/pod/session.py`);
plus one for each convenience copy while it is made. Nothing in the pool needs a session (no LISTEN, no session locks;
prepared statements only where no pooler stands between), so the pool may connect through a transaction-mode pooler.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
import stamina
from psycopg import sql
from psycopg.types.json import set_json_dumps
from psycopg_pool import AsyncConnectionPool
from pydantic_core import to_json

from worker.database.connections import OwnAsyncConnection, options_of
from worker.database.errors import explain_connection
from worker.database.transient import is_lost_statement, is_transient

set_json_dumps(lambda value: to_json(value, inf_nan_mode="null").decode())  # jsonb has no NaN

POOL_SIZE = 2
POOL_WAIT_S = 10.0
"""How long a statement waits for a connection of the pool; then it fails as transient."""
POOL_RECONNECT_FOR_S = 5.0
"""Short, because the pool's own pauses double, and a pod must not stay silent past the reaper's grace. After this, the
next statement starts a new connection."""
POOL_CLOSE_WITHIN_S = 2.0

RETRY_FOR_S = 60.0
RETRY_FIRST_PAUSE_S = 0.02
RETRY_JITTER_S = 0.1
RETRY_LONGEST_PAUSE_S = 2.0


class Database:
    """Statements over the pool. Every function that pods call is safe to repeat, also when a reply was lost."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = f"likeness {name}"[:63]
        self._pool: AsyncConnectionPool[OwnAsyncConnection] = AsyncConnectionPool(
            url,
            connection_class=OwnAsyncConnection,
            configure=OwnAsyncConnection.take_session,
            # All from the start, so that none is lacking later because a copy has the server's last one.
            min_size=POOL_SIZE,
            max_size=POOL_SIZE,
            open=False,
            timeout=POOL_WAIT_S,
            reconnect_timeout=POOL_RECONNECT_FOR_S,
            kwargs=options_of(self._name),
        )

    async def __aenter__(self) -> Self:
        """Open the pool. Raises SettingsError if DATABASE_URL cannot be connected to."""
        try:
            # The pool would keep trying for a long time, and not say why.
            await (await OwnAsyncConnection.open(self._url, self._name)).close()
        except psycopg.OperationalError as error:
            raise explain_connection(error, "DATABASE_URL") from error
        # Without waiting: where the server has one connection left, a pod works with that.
        await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pool.close(timeout=POOL_CLOSE_WITHIN_S)

    async def call(self, function: LiteralString, *arguments: object) -> Any:
        """Call one SQL function as one autocommit statement, again after deadlocks and lost connections.

        Gives up after RETRY_FOR_S. Wrap jsonb arguments in `Jsonb`.
        """
        return await self._call(RETRY_FOR_S, function, *arguments)

    async def call_until_answered(self, function: LiteralString, *arguments: object) -> Any:
        """Call one SQL function, and never give up: an attempt's lease outlives an outage of the database."""
        return await self._call(None, function, *arguments)

    async def _call(self, retry_for_s: float | None, function: LiteralString, *arguments: object) -> Any:
        async for attempt in _retrying(retry_for_s):
            with attempt:
                return await self.call_once(function, *arguments)
        raise AssertionError("retry_context either returns or raises")

    async def call_once(self, function: LiteralString, *arguments: object) -> Any:
        """Call one SQL function without retrying, where the next heartbeat or tick does the same anyway."""
        rows = await self.fetch(_call_of(function, len(arguments)), list(arguments))
        return next(iter(rows[0].values()))

    async def fetch(self, statement: LiteralString | bytes, arguments: list[Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of one statement; none for a statement that returns no rows."""
        async with self.pooled() as connection:
            cursor = await connection.execute(statement, arguments)
            return await cursor.fetchall() if cursor.description is not None else []

    @asynccontextmanager
    async def pooled(self) -> AsyncIterator[OwnAsyncConnection]:
        """Hold a connection of the pool."""
        async with self._pool.connection() as connection:
            try:
                yield connection
            except psycopg.Error as error:
                if is_lost_statement(error):
                    await connection.close()  # it would answer the same again; the pool opens another
                raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[OwnAsyncConnection]:
        """Open a transaction around an effect in storage, on a connection of its own.

        Not one of the pool: heartbeats must continue while a store hangs. Where there is none to be had, it tries again
        for RETRY_FOR_S, and then raises the error, which is transient.
        """
        async with await self._connect() as connection, connection.transaction():
            yield connection

    async def _connect(self) -> OwnAsyncConnection:
        async for attempt in _retrying(RETRY_FOR_S):
            with attempt:
                return await OwnAsyncConnection.open(self._url, self._name)
        raise AssertionError("retry_context either returns or raises")


@cache
def _call_of(function: LiteralString, arguments: int) -> bytes:
    """Return the statement that calls a SQL function; made once, because every job takes several."""
    placeholders = sql.SQL(", ").join(sql.Placeholder() * arguments)
    return sql.SQL("select worker.{}({})").format(sql.Identifier(function), placeholders).as_bytes()


def _retrying(for_s: float | None) -> AsyncIterator[stamina.Attempt]:
    return stamina.retry_context(
        on=is_transient,
        attempts=None,
        timeout=for_s,
        wait_initial=RETRY_FIRST_PAUSE_S,
        wait_jitter=RETRY_JITTER_S,
        wait_max=RETRY_LONGEST_PAUSE_S,
    )

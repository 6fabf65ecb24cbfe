"""Connections whose sessions are ours: see `session_settings.py` for what that means.

Both classes behave as psycopg's; behind a pooler, a statement outside a transaction gets one, with the settings in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

import psycopg
from psycopg import IsolationLevel
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.datetime import DateLoader, TimestampLoader

from worker.database.lenient_types import LenientInterval, LenientTimestamptz, lenient_types
from worker.database.session_settings import POD_SETTINGS, SETTINGS, TAKE_SESSION, arguments, set_local

KEEPALIVE_IDLE_S = 5
KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_COUNT = 3
UNACKNOWLEDGED_LIMIT_MS = 15_000
CONNECT_TIMEOUT_S = 10

PREPARE_AFTER = 2
"""Executions of the same statement on one connection: one that is run once is not worth a round trip."""

CONNECT_OPTIONS: Mapping[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": KEEPALIVE_IDLE_S,
    "keepalives_interval": KEEPALIVE_INTERVAL_S,
    "keepalives_count": KEEPALIVE_COUNT,
    "tcp_user_timeout": UNACKNOWLEDGED_LIMIT_MS,
    "connect_timeout": CONNECT_TIMEOUT_S,
    "client_encoding": "utf8",
}
"""A connection whose other end vanished is detected after 11 to 15 s, not after two hours. Text is UTF-8."""

_SET_LOCAL = set_local(SETTINGS).encode()
_SET_LOCAL_FOR_PODS = set_local(POD_SETTINGS).encode()

Row = dict[str, Any]


def _written_as_set_local(base: type[Loader]) -> type[Loader]:
    """Return a loader of what a transaction with the settings wrote: psycopg's asks what the session has now."""
    styles = {name.encode(): SETTINGS[name].encode() for name in ("DateStyle", "IntervalStyle", "TimeZone")}
    ours = SimpleNamespace(connection=SimpleNamespace(pgconn=SimpleNamespace(parameter_status=styles.get)))

    def init(self: Loader, oid: int, _context: object = None) -> None:
        base.__init__(self, oid, cast(Any, ours))

    return type(base.__name__, (base,), {"__init__": init})


def _read_as_set_local(adapters: AdaptersMap) -> None:
    for name, loader in _LOADERS.items():
        adapters.register_loader(name, _written_as_set_local(loader))


_LOADERS: Mapping[str, type[Loader]] = {
    "date": DateLoader,
    "interval": LenientInterval,
    "timestamp": TimestampLoader,
    "timestamptz": LenientTimestamptz,
}


def options_of(application_name: str) -> dict[str, Any]:
    """Return how to connect: in autocommit, rows as dicts, and nothing prepared, as a pooler may be between."""
    return {
        "autocommit": True,
        "prepare_threshold": None,
        "row_factory": dict_row,
        "context": lenient_types(),
        "application_name": application_name,
        **CONNECT_OPTIONS,
    }


class OwnConnection(psycopg.Connection[Row]):
    """A command's connection, in autocommit."""

    is_pooled = False
    """A pooler may stand between, so that what is set for the session may not hold. Known once the session is taken."""

    @classmethod
    def open(cls, url: str, application_name: str) -> Self:
        """Connect. Raises psycopg.OperationalError."""
        connection = cls.connect(url, **options_of(application_name))
        try:
            connection._take_session()
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_session(self) -> None:
        (taken,) = super().execute(TAKE_SESSION, arguments(SETTINGS, self.info.backend_pid)).fetchall()
        self.isolation_level = IsolationLevel.READ_COMMITTED
        self.read_only = False if taken["writable"] else None
        self.is_pooled = not taken["direct"]
        if self.is_pooled:
            _read_as_set_local(self.adapters)

    def execute(self, query: Any, params: Any = None, **options: Any) -> psycopg.Cursor[Row]:
        """Execute one statement, in a transaction with the settings."""
        if not self.is_pooled or self.info.transaction_status != TransactionStatus.IDLE:
            return super().execute(query, params, **options)
        with self.transaction():
            return super().execute(query, params, **options)

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Open a transaction with the settings, or a savepoint in one."""
        is_outermost = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if is_outermost and self.is_pooled:
                super().execute(_SET_LOCAL)
            yield transaction


class OwnAsyncConnection(psycopg.AsyncConnection[Row]):
    """A pod's connection, in autocommit."""

    is_pooled = False
    """A pooler may stand between, so that what is set for the session may not hold. Known once the session is taken."""

    @classmethod
    async def open(cls, url: str, application_name: str) -> Self:
        """Connect. Raises psycopg.OperationalError."""
        connection = await cls.connect(url, **options_of(application_name))
        try:
            await connection.take_session()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def take_session(self, *, is_known_to_hold: bool = False) -> None:
        """Make the session ours, before anything else runs on it; or behind a pooler, if it is known to hold."""
        pid = None if is_known_to_hold else self.info.backend_pid
        cursor = await super().execute(TAKE_SESSION, arguments(POD_SETTINGS, pid))
        (taken,) = await cursor.fetchall()
        await self.set_isolation_level(IsolationLevel.READ_COMMITTED)
        await self.set_read_only(False if taken["writable"] else None)
        self.is_pooled = not taken["direct"]
        if self.is_pooled:
            _read_as_set_local(self.adapters)
        elif not is_known_to_hold:
            self.prepare_threshold = PREPARE_AFTER

    async def execute(self, query: Any, params: Any = None, **options: Any) -> psycopg.AsyncCursor[Row]:
        """Execute one statement, in a transaction with the settings; behind a pooler that takes one round trip too."""
        async with self.one_statement():
            return await super().execute(query, params, **options)

    @asynccontextmanager
    async def one_statement(self) -> AsyncIterator[None]:
        """Hold a transaction with the settings for one statement, whose rows are read after it."""
        if not self.is_pooled or self.info.transaction_status != TransactionStatus.IDLE:
            yield
            return
        try:
            async with self.pipeline():  # psycopg's own transaction would wait for each of its commands
                await super().execute(
                    b"begin isolation level read committed" + (b" read write" if self.read_only is False else b"")
                )
                await super().execute(_SET_LOCAL_FOR_PODS)
                yield
                await super().execute(b"commit")
        finally:
            if self.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                await self.rollback()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Open a transaction with the settings, or a savepoint in one."""
        is_outermost = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if is_outermost and self.is_pooled:
                await super().execute(_SET_LOCAL_FOR_PODS)
            yield transaction

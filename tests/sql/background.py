"""Run statements that must wait for each other: each in a thread of its own, on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from tests.sql.tables import AppTables
from tests.waiting import wait_until

T = TypeVar("T")

STUCK_AFTER_S = 30
"""A statement that no lock holds up any more must end within this time."""


class BackgroundCalls:
    """Run calls beside the test, and verify that they are really blocked by a lock."""

    def __init__(self, db: AppTables, executor: ThreadPoolExecutor) -> None:
        self._db = db
        self._executor = executor

    def start(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._executor.submit(call, *arguments)

    def start_blocked(self, connection: psycopg.Connection[Any], call: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start a call that uses `connection`, and return once the server reports that it waits for a lock."""
        future = self.start(call, *arguments)
        pid = connection.info.backend_pid
        wait_until(
            lambda: future.done() or self._db.one("select cardinality(pg_blocking_pids(%s)) > 0", pid),
            f"backend {pid} to wait for a lock",
        )
        assert not future.done(), f"the call ended without waiting for a lock: {future}"
        return future

    def wait_until_blocking(self, holder: psycopg.Connection[Any]) -> None:
        """Return once any backend waits for a lock that this connection holds."""
        pid = holder.info.backend_pid
        wait_until(
            lambda: self._db.one("select bool_or(%s = any (pg_blocking_pids(pid))) from pg_stat_activity", pid),
            f"a backend to wait for backend {pid}",
        )

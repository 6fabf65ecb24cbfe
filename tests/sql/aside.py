"""Statements that have to wait for each other: each in a thread, on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from tests.sql.tables import AppTables
from tests.waiting import wait_until

T = TypeVar("T")

NO_TIME = 30
"""Seconds after which a statement that nothing holds up any more counts as stuck."""


class Aside:
    """Runs calls beside the test and sees when they are really blocked."""

    def __init__(self, db: AppTables, executor: ThreadPoolExecutor) -> None:
        self._db = db
        self._executor = executor

    def run(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._executor.submit(call, *arguments)

    def run_blocked(self, connection: psycopg.Connection[Any], call: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a call that uses `connection`, and return once the server says that it waits for a lock."""
        future = self.run(call, *arguments)
        pid = connection.info.backend_pid
        wait_until(
            lambda: future.done() or self._db.one("select cardinality(pg_blocking_pids(%s)) > 0", pid),
            f"backend {pid} to wait for a lock",
        )
        assert not future.done(), f"it did not wait for anybody: {future}"
        return future

    def wait_until_anyone_waits_for(self, holder: psycopg.Connection[Any]) -> None:
        """Until some backend waits for what this connection holds."""
        pid = holder.info.backend_pid
        wait_until(
            lambda: self._db.one("select bool_or(%s = any (pg_blocking_pids(pid))) from pg_stat_activity", pid),
            f"somebody to wait for backend {pid}",
        )

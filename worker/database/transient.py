"""Transient database errors: which they are, and how a background loop continues after one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import structlog

log = structlog.get_logger()


def is_transient(error: Exception) -> bool:
    """Return True if the same statement may succeed when sent again: a lost connection, a deadlock, a busy pooler."""
    return isinstance(
        error,
        psycopg.OperationalError  # PoolTimeout is one, and so are deadlocks and lock timeouts
        | psycopg.InterfaceError
        | psycopg.errors.InternalError_  # how Supabase's pooler reports that it lost its connection
        | psycopg.errors.ReadOnlySqlTransaction  # a failover
        | psycopg.errors.UndefinedTable  # that of a kind, dropped while the statement waited for it: now it is skipped
        | psycopg.errors.IdleInTransactionSessionTimeout,
    )


@contextmanager
def suppress_transient_errors(event: str, *others: type[Exception]) -> Iterator[None]:
    """Suppress transient database errors and `others`, each logged as a warning named `event`.

    Any other error is raised: a worker must not continue after a bug.
    """
    try:
        yield
    except Exception as error:
        if not (is_transient(error) or isinstance(error, others)):
            raise
        log.warning(event, reason=type(error).__name__)

"""A background loop continues only after transient errors."""

from __future__ import annotations

import psycopg
import pytest
import structlog.testing

from worker.database.transient import is_transient, suppress_transient_errors

TRANSIENT = [
    psycopg.errors.DeadlockDetected("deadlock detected"),
    psycopg.errors.AdminShutdown("terminating connection"),
    psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
    psycopg.InterfaceError("the connection is closed"),
]
PERMANENT = [psycopg.errors.UndefinedFunction("function worker.tick() does not exist"), ValueError("a bug")]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_a_transient_error_is_logged_and_suppressed(error: Exception) -> None:
    with structlog.testing.capture_logs() as logged, suppress_transient_errors("tick.failed"):
        raise error
    assert is_transient(error)
    assert logged == [{"event": "tick.failed", "log_level": "warning", "reason": type(error).__name__}]


@pytest.mark.parametrize("error", PERMANENT, ids=lambda error: type(error).__name__)
def test_any_other_error_is_raised_and_not_logged(error: Exception) -> None:
    with (
        structlog.testing.capture_logs() as logged,
        pytest.raises(type(error)),
        suppress_transient_errors("tick.failed"),
    ):
        raise error
    assert not is_transient(error)
    assert logged == []


def test_a_named_error_is_suppressed_too() -> None:
    with structlog.testing.capture_logs() as logged, suppress_transient_errors("tick.failed", TimeoutError):
        raise TimeoutError
    assert [line["reason"] for line in logged] == ["TimeoutError"]

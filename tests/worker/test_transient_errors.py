"""Each error of the database is judged by its SQLSTATE: it passes, or is the job's fault, or ours."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest
import structlog.testing
from psycopg.errors import lookup

from tests.conftest import Databases
from worker.database.pool import Database
from worker.database.transient import Fault, fault_of, is_transient, suppress_transient_errors

# SQLSTATEs by whose fault they are; a class of two characters stands for those of its codes that are not listed.
PASSING = """
    08 28 40 53 55 57 58 72
    25006 25P03 25P04 26000 3D000 42P05 HV00N XX000
"""
JOB = "22 23 44 54"
OURS = """
    02 03 09 0A 0B 0F 0L 0P 0Z 10 20 21 24 25 26 27 2B 2D 2F 34 38 39 3B 3D 3F 42 55P02 55P04 F0 HV P0 XX
"""
NOT_IN_HOOKS = {
    # A hook with such an error has it again and again: it fails the job.
    "57014": "cancelled by statement_timeout",
    "XX000": "an internal error",
}
CODES = sorted(
    error.sqlstate
    for error in vars(psycopg.errors).values()
    if isinstance(error, type) and issubclass(error, psycopg.Error) and isinstance(error.sqlstate, str)
)


def wanted(code: str) -> Fault:
    """Return whose fault the lists above say that a code is."""
    lists = {Fault.PASSING: PASSING.split(), Fault.JOB: JOB.split(), Fault.OURS: OURS.split()}
    for spelling in (code, code[:2]):
        for fault, codes in lists.items():
            if spelling in codes:
                return fault
    raise AssertionError(f"class {code[:2]} is in none of the lists")


@pytest.mark.parametrize("code", CODES)
def test_every_sqlstate_is_decided(code: str) -> None:
    error = lookup(code)("a message in whatever language")
    assert fault_of(error) is wanted(code)
    assert is_transient(error) is (wanted(code) is Fault.PASSING)


def test_all_of_psycopgs_classes_are_seen() -> None:
    assert len(CODES) > 250
    assert len({code[:2] for code in CODES}) >= 40


def test_the_database_judges_errors_within_its_functions_alike(databases: Databases) -> None:
    with psycopg.connect(databases.server.url("likeness_template")) as connection:
        rows = connection.execute(
            "select code, worker.is_transient(code) from unnest(%s::text[]) code", [CODES]
        ).fetchall()
    differ = {code for code, is_passing in rows if is_passing != (wanted(code) is Fault.PASSING)}
    assert differ == {*NOT_IN_HOOKS}


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), Fault.PASSING),
        (psycopg.InterfaceError("the connection is closed"), Fault.PASSING),
        (psycopg_pool.PoolTimeout("couldn't get a connection after 10 sec"), Fault.PASSING),
        (psycopg_pool.PoolClosed("the pool is closed"), Fault.PASSING),
        (psycopg_pool.TooManyRequests("the pool has already 10 requests waiting"), Fault.PASSING),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), Fault.PASSING),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), Fault.JOB),
        (psycopg.ProgrammingError("the query has 2 placeholders but 1 parameters were passed"), Fault.OURS),
        (psycopg.NotSupportedError("not supported"), Fault.OURS),
        (lookup("22P05")("unsupported Unicode escape sequence"), Fault.JOB),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_no_server_are_decided(error: psycopg.Error, fault: Fault) -> None:
    assert fault_of(error) is fault


def test_a_group_of_errors_passes_if_each_of_them_does() -> None:
    lost, bug = psycopg.OperationalError("lost"), ValueError("a bug")
    assert is_transient(ExceptionGroup("tasks", [lost, ExceptionGroup("more", [lost])]))
    assert not is_transient(ExceptionGroup("tasks", [lost, bug]))
    assert not is_transient(bug)


async def test_a_table_that_a_function_misses_may_be_back_or_passed_over_but_a_missing_table_is_ours(
    database_url: str,
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "create function worker.reads_it() returns int language plpgsql as 'begin return (select x from gone); end'"
        )
        connection.execute("grant execute on function worker.reads_it to public")
    async with Database(database_url, "test") as database:
        with pytest.raises(psycopg.errors.UndefinedTable) as within:
            await database.call_once("reads_it")
        with pytest.raises(psycopg.errors.UndefinedTable) as directly:
            await database.fetch("select x from gone")
    assert (fault_of(within.value), fault_of(directly.value)) == (Fault.PASSING, Fault.OURS)


async def test_a_statement_prepared_before_a_migration_is_sent_again_over_another_connection(database_url: str) -> None:
    statement = "select * from worker.config"
    async with Database(database_url, "test") as database:
        for _ in range(2):  # on each connection of the pool
            async with database.pooled() as one, database.pooled() as other:
                for connection in (one, other):
                    connection.prepare_threshold = 0
                    await connection.execute(statement)
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("alter table worker.config add column later int")
        for _ in range(2):
            with pytest.raises(psycopg.errors.FeatureNotSupported) as stale:
                await database.fetch(statement)
            assert is_transient(stale.value)
        assert "later" in (await database.fetch(statement))[0]


def test_a_transient_error_is_logged_and_suppressed() -> None:
    with structlog.testing.capture_logs() as logged, suppress_transient_errors("tick.failed"):
        raise psycopg.errors.DeadlockDetected("deadlock detected")
    assert logged == [{"event": "tick.failed", "log_level": "warning", "reason": "DeadlockDetected"}]


@pytest.mark.parametrize("error", [psycopg.errors.UndefinedFunction("function does not exist"), ValueError("a bug")])
def test_any_other_error_is_raised_and_not_logged(error: Exception) -> None:
    with (
        structlog.testing.capture_logs() as logged,
        pytest.raises(type(error)),
        suppress_transient_errors("tick.failed"),
    ):
        raise error
    assert logged == []


def test_a_named_error_is_suppressed_too() -> None:
    with structlog.testing.capture_logs() as logged, suppress_transient_errors("tick.failed", TimeoutError):
        raise TimeoutError
    assert [line["reason"] for line in logged] == ["TimeoutError"]

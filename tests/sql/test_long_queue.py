"""What costs the same however many jobs wait or have ended: rows that each call reads, as the server counts them.

Fifteen thousand jobs wait and a hundred thousand have ended. Whatever a test changes is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.conftest import Databases
from tests.sql.long_queue import fill
from tests.sql.pod import GENERATION, ROUTES
from tests.tiny_models import REGISTER_TINY_BASE, TINY_BASE

QUEUED, FINISHED = 15_000, 100_000

FEW = 6_000
"""Rows that a call may read: a few slices of 500 and batches of 100, for each of three kinds."""


@pytest.fixture(scope="module")
def filled(databases: Databases) -> Iterator[str]:
    """The URL of a database with a long queue, for this module."""
    with databases.fresh() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(REGISTER_TINY_BASE)
            fill(connection, queued=QUEUED, finished=FINISHED)
        yield url


@pytest.fixture
def long_queue(filled: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is rolled back, in which a pod is alive and offers every route."""
    with psycopg.connect(filled) as connection:
        connection.execute("update worker.clock set last_tick = clock_timestamp()")
        register(connection, list(ROUTES))
        yield connection
        connection.rollback()


def register(connection: psycopg.Connection[Any], routes: list[str]) -> UUID:
    pod_id = uuid4()
    connection.execute(
        "select worker.register_pod(%s, 'pod', %s, 8, %s, false, '0.1.0')", [pod_id, routes, [TINY_BASE]]
    )
    return pod_id


_READS = """
    select coalesce(sum(seq_tup_read), 0)::int, coalesce(sum(idx_tup_fetch), 0)::int
    from pg_stat_xact_user_tables where schemaname in ('worker', 'public') and relname not like 'screen%'"""


def rows_read(connection: psycopg.Connection[Any], statement: str, *arguments: object) -> int:
    """Return how many rows a statement read from tables, through an index or not."""
    before = connection.execute(_READS).fetchone()
    connection.execute(statement.encode(), arguments)
    after = connection.execute(_READS).fetchone()
    assert before is not None
    assert after is not None
    return sum(after) - sum(before)


def first_queued(connection: psycopg.Connection[Any]) -> UUID:
    row = connection.execute(
        "select right(dedupe_key, 36)::uuid from worker.pgqueuer where status = 'queued' order by id limit 1"
    ).fetchone()
    assert row is not None
    job_id: UUID = row[0]
    return job_id


@pytest.mark.parametrize(
    "statement",
    [
        "select worker.take_over()",
        "select worker.run_housekeeping()",
        "select worker.tick()",
        f"select worker.starved_routes(array['{GENERATION}'], interval '1 minute')",
        "select * from worker.stranded_jobs",
        "select * from worker.jobs limit 20",
    ],
)
def test_each_part_of_the_tick_and_each_view_reads_few_rows(
    long_queue: psycopg.Connection[Any], statement: str
) -> None:
    assert rows_read(long_queue, statement) <= FEW


def test_the_queues_depth_reads_the_queue_once(long_queue: psycopg.Connection[Any]) -> None:
    assert rows_read(long_queue, "select * from worker.queue_depth") <= QUEUED + FEW


def test_housekeeping_reads_few_rows_where_no_pod_can_run_any_job(long_queue: psycopg.Connection[Any]) -> None:
    long_queue.execute("delete from worker.pods")
    for _ in range(2):
        assert rows_read(long_queue, "select worker.run_housekeeping()") <= FEW
    explained = "select count(*) from public.generation_jobs where phase like 'waiting: no live pod%'"
    assert long_queue.execute(explained).fetchone() == (200,)


def test_old_logs_are_found_without_reading_those_to_keep(long_queue: psycopg.Connection[Any]) -> None:
    long_queue.execute("update worker.config set keep_logs_for = '1 day'")
    assert rows_read(long_queue, "select worker.prune()") <= FEW


def test_consent_that_expired_is_found_without_reading_everyone(long_queue: psycopg.Connection[Any]) -> None:
    assert rows_read(long_queue, "select worker.expire_consent()") <= 10


def test_the_life_of_a_job_reads_few_rows(long_queue: psycopg.Connection[Any]) -> None:
    job_id, pod_id = first_queued(long_queue), register(long_queue, list(ROUTES))
    long_queue.execute(
        "update worker.pgqueuer set status = 'picked', queue_manager_id = %s "
        "where dedupe_key = %s and status = 'queued'",
        [pod_id, f"generation:{job_id}"],
    )
    long_queue.execute("update worker.config set open_jobs_per_owner = 1000000")
    for statement, arguments in {
        "select worker.start_job('generation', %s, %s)": [job_id, pod_id],
        "select worker.report_job('generation', %s, 1, 0.5, 'drawing')": [job_id],
        "select worker.heartbeat(%s, '[]')": [pod_id],
        "select worker.release_job('generation', %s, 1, 'stopped')": [job_id],
        "select public.cancel_job('generation', %s)": [job_id],
        "select public.retry_job('generation', %s)": [job_id],
    }.items():
        assert rows_read(long_queue, statement, *arguments) <= 1_000, statement


def test_every_queued_job_is_compared_with_the_queue(long_queue: psycopg.Connection[Any]) -> None:
    """In slices: none is left out, and after the last comes the first again."""
    lost = "delete from worker.pgqueuer where id in (select id from worker.pgqueuer order by md5(id::text) limit 1000)"
    long_queue.execute(lost)
    left = "select count(*) from worker.pgqueuer"
    assert long_queue.execute(left).fetchone() == (QUEUED - 1000,)
    for _ in range(QUEUED // 500 + 1):
        long_queue.execute("select worker.reconcile()")
    assert long_queue.execute(left).fetchone() == (QUEUED,)
    assert long_queue.execute("select job_ids from worker.housekeeping").fetchone() == ({},)

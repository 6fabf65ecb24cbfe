"""Pods and rows that Python cannot hold: times outside its years, endless intervals, JSON beyond its stack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.extremes import DEEP, EXTREMES, LONG_NUMBER, drop_checks
from tests.sql.pod import GENERATION, Pod, as_worker
from tests.sql.tables import AppTables
from worker.database.claim_queue import ClaimQueue
from worker.database.lenient_types import UNREADABLE, lenient_types
from worker.database.pool import Database
from worker.jobs.starting import start_job

JOBS = ("public.training_jobs", "public.generation_jobs", "worker.internal_jobs")


@pytest.fixture
async def database(db: AppTables) -> AsyncIterator[Database]:
    async with Database(as_worker(db.url), "pod") as database:
        yield database


def set_past_triggers(db: AppTables, column: str, value: str, job: UUID) -> None:
    with db.without_triggers():
        db.run(f"update public.generation_jobs set {column} = %s where id = %s", value, job)


def test_values_outside_pythons_range_become_the_nearest_inside(db: AppTables) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    expected: dict[str, Any] = {
        "timestamptz 'infinity'": last,
        "timestamptz '294276-12-31 23:59:59+00'": last,
        "timestamptz '9999-12-31 23:30:00-02'": last,
        "timestamptz '-infinity'": first,
        "timestamptz '4714-11-24 00:00:00+00 BC'": first,
        "timestamptz '0001-01-01 00:30:00+02'": first,
        "timestamptz '2026-11-30 12:00:00+02'": datetime(2026, 11, 30, 10, tzinfo=UTC),
        "interval '178000000 years'": timedelta.max,
        "interval '-178000000 years'": timedelta.min,
        "interval '1 day 2 hours'": timedelta(days=1, hours=2),
        f"'{LONG_NUMBER}'::jsonb": float("inf"),
        f"'{DEEP}'::jsonb": {UNREADABLE: "JSON of 6000 characters is nested too deeply"},
        f"'{DEEP}'::json": {UNREADABLE: "JSON of 6000 characters is nested too deeply"},
        """'{"a": [1, 2.5, null]}'::jsonb""": {"a": [1, 2.5, None]},
    }
    if db.database.info.server_version >= 170000:
        expected |= {"interval 'infinity'": timedelta.max, "interval '-infinity'": timedelta.min}
    for zone in ("UTC", "Pacific/Kiritimati", "America/Anchorage"):
        with psycopg.connect(db.url, context=lenient_types()) as connection:
            connection.execute(f"set timezone = '{zone}'")  # type: ignore[call-overload]
            for literal, value in expected.items():
                row = connection.execute(f"select {literal}").fetchone()  # type: ignore[call-overload]
                assert row == (value,), (zone, literal[:60])


def test_a_number_that_is_not_finite_is_written_as_null(db: AppTables, pod: Pod) -> None:
    """JSON has none: Postgres would refuse the whole report."""
    attempt = pod.run("generation", db.ask())
    assert attempt.report(0.5, "drawing", {"loss": float("nan"), "step": 3}) == "ok"
    assert db.job("generation", attempt.id)["metrics"] == {"loss": None, "step": 3}


async def test_queue_rows_with_any_time_are_claimed_or_wait(db: AppTables, database: Database) -> None:
    queue = ClaimQueue(database, uuid4())
    for value in EXTREMES["timestamp with time zone"]:
        job = db.ask()
        columns = "created = %(at)s, updated = %(at)s, heartbeat = %(at)s, execute_after = %(at)s"
        db.database.execute(f"update worker.pgqueuer set {columns}", {"at": value})  # type: ignore[call-overload]
        waits = value[0] in "i29"
        assert db.one("select worker.next_due_s(array[%s])", GENERATION) is None, "nothing else is due within an hour"
        assert await queue.claim([GENERATION]) == (None if waits else ("generation", job))
        db.run("delete from worker.pgqueuer")
    db.ask(run_after=datetime.now(UTC) + timedelta(minutes=59))
    assert 3530 < db.one("select worker.next_due_s(array[%s])", GENERATION) <= 3540


async def test_a_queue_row_with_another_kinds_route_is_replaced(db: AppTables, database: Database) -> None:
    queue, job = ClaimQueue(database, uuid4()), db.ask()
    db.run("update worker.pgqueuer set entrypoint = 'publish_lora', payload = 'x', headers = '[1]'")
    assert await queue.claim(["publish_lora"]) is None
    with db.without_triggers():
        db.run("update public.generation_jobs set created_at = now() - interval '1 minute'")
    db.tick()
    assert await queue.claim([GENERATION]) == ("generation", job)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("preset", f'{{"prompt": {DEEP}}}', "nested too deeply"),
        ("attempt", "2147483647", "integer out of range"),
        ("lora_scales", "{{1},{1}}", "cannot be read"),
    ],
)
async def test_a_job_that_cannot_be_read_ends_as_invalid_input(
    db: AppTables, database: Database, pod: Pod, column: str, value: str, reason: str
) -> None:
    drop_checks(db, *JOBS)
    subject = db.add_subject()
    job = db.ask(subject_id=subject, model_ids=[db.add_lora(subject)])
    set_past_triggers(db, column, value, job)
    claim = await ClaimQueue(database, pod.id).claim([GENERATION])
    assert claim == ("generation", job)
    assert await start_job(database, *claim, pod.id) is None
    (ended,) = db.run("select status, error_code, error from public.generation_jobs where id = %s", job)
    assert (ended["status"], ended["error_code"]) == ("failed", "invalid_input")
    assert reason in ended["error"]
    assert db.queue_row("generation", job) is None


async def test_only_the_pod_that_claimed_a_job_sets_it_aside(db: AppTables, database: Database, pod: Pod) -> None:
    job = db.ask()
    assert await database.call("set_aside_job", "generation", job, pod.id, "x") == "lost"
    claim = await ClaimQueue(database, pod.id).claim([GENERATION])
    assert claim is not None
    assert await database.call("set_aside_job", *claim, uuid4(), "x") == "lost"
    assert await database.call("set_aside_job", *claim, pod.id, "x") == "failed"
    assert await database.call("set_aside_job", *claim, pod.id, "x") == "lost"
    assert db.job("generation", job)["error"] == "x"


def test_a_heartbeat_is_answered_whatever_the_limits_of_a_job_are(db: AppTables, pod: Pod) -> None:
    drop_checks(db, *JOBS)
    attempt = pod.run("generation", db.ask())
    for column, value, state in (
        ("max_runtime", "178000000 years", "ok"),
        ("max_runtime", "-178000000 years", "timeout"),
        ("max_runtime", "1 hour", "ok"),
        ("started_at", "-infinity", "timeout"),
        ("started_at", "infinity", "ok"),
        ("started_at", "4714-11-24 00:00:00+00 BC", "timeout"),
    ):
        set_past_triggers(db, column, value, attempt.id)
        assert [lease["state"] for lease in pod.heartbeat(attempt)["leases"]] == [state], (column, value)

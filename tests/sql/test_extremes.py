"""Extremes of every column's type: refused where a client may write them, survived where they are there anyway."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Databases
from tests.sql.extremes import EXTREMES, Column, columns, drop_checks
from tests.sql.pod import Attempt, Pod
from tests.sql.tables import AppTables
from tests.tiny_models import TINY_BASE
from worker.database.lenient_types import UNREADABLE
from worker.database.schema.sql_files import sql_folder

FLOATS = ("real", "double precision")
TIMES_AND_FLOATS = ("timestamp with time zone", "interval", *FLOATS)
NAMED_OR_UNKNOWN = (psycopg.errors.CheckViolation, psycopg.errors.InvalidDatetimeFormat)
"""Before PostgreSQL 17 an interval cannot be infinite."""
JOBS = ("public.training_jobs", "public.generation_jobs", "public.mesh_jobs", "worker.internal_jobs")


def test_every_type_of_the_tables_has_its_extremes(db: AppTables) -> None:
    assert {column.type for column in columns(db)} <= set(EXTREMES)


# -- what clients may write


def rows_of_a_client(db: AppTables) -> dict[str, dict[str, Any]]:
    """A valid row of each table that clients insert into."""
    subject = db.add_subject()
    photos = db.add_photos(subject)
    db.add_lora(subject)
    return {
        "public.subjects": {"owner_id": db.owner, "name": "Ada"},
        "public.subject_photos": {"subject_id": subject, "path": photos[0].replace("0.jpg", "9.jpg")},
        "public.presets": {"owner_id": db.owner, "name": "a look", "kind": "generation"},
        "public.training_jobs": {"subject_id": subject},
        "public.generation_jobs": {"subject_id": subject, "prompt": "x"},
        "public.mesh_jobs": {"subject_id": subject, "image_urls": ["https://shop.example/mug.png"]},
    }


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_what_a_client_may_write_python_and_json_can_hold(db: AppTables, role: str) -> None:
    """Read back with psycopg's own types, which raise for everything else."""
    rows = rows_of_a_client(db)
    tried = 0
    with db.acting_as(role, db.owner) as client:
        for column in columns(db, *rows):
            if column.name == "face":
                continue  # any JSON of the app's own; no part of the worker reads it
            row = dict(rows[column.table])
            if role == "authenticated":
                row.pop("owner_id", None)
            tried += sum(is_held_or_refused(client, column, row | {column.name: value}) for value in column.extremes)
    assert tried > 100


def is_held_or_refused(client: psycopg.Connection[Any], column: Column, row: dict[str, Any]) -> bool:
    """Insert a row and read it back. Return False if the role has no right to write the column."""
    table, _ = column.identifiers
    names, values = sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(sql.Placeholder() * len(row))
    returned = sql.SQL("*, to_jsonb({}) as json").format(sql.Identifier(column.table.split(".")[1]))
    statement = sql.SQL("insert into {} ({}) values ({}) returning {}").format(table, names, values, returned)
    with client.transaction(force_rollback=True):
        try:
            written = client.execute(statement, list(row.values())).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return False
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if column.type in TIMES_AND_FLOATS and not isinstance(error, NAMED_OR_UNKNOWN):
                raise
            return True
        assert written is not None
        assert column.type not in FLOATS or not isinstance(written["json"][column.name], str), f"{column} is not finite"
        return True


@pytest.mark.parametrize("column", ["run_after", "max_runtime"])
def test_an_update_by_the_service_is_refused_too(db: AppTables, column: str) -> None:
    job = db.ask()
    found = {each.name: each for each in columns(db, "public.generation_jobs")}[column]
    with db.acting_as("service_role") as service:
        for value in set(found.extremes) - {"1 mon -29 days"}:
            with pytest.raises(NAMED_OR_UNKNOWN) as caught:
                service.execute(f"update generation_jobs set {column} = %s where id = %s", [value, job])  # type: ignore[arg-type]
            if isinstance(caught.value, psycopg.errors.CheckViolation):
                assert (caught.value.diag.constraint_name or "").startswith(f"{column}_between_")


# -- what is there anyway


def set_value(db: AppTables, column: Column, value: str, job: UUID | None = None) -> bool:
    """Set a column of one job, or of every row, past all triggers. Return False where a CHECK refuses it."""
    table, name = column.identifiers
    statement = sql.SQL("update {} set {} = %s where %s::uuid is null or to_jsonb({}) ->> 'id' = %s").format(
        table, name, sql.Identifier(column.table.split(".")[1])
    )
    with db.without_triggers():
        try:
            with db.database.transaction():
                db.database.execute(statement, [value, job, str(job)])
        except (psycopg.DataError, psycopg.IntegrityError):
            return False
    return True


def use(db: AppTables, pod: Pod) -> None:
    """Call what reads jobs, people and settings: the tick, heartbeats, prefetching, views."""
    db.tick()
    db.run("select worker.heartbeat(%s, '[]')", pod.id)
    db.run("select worker.peek(%s, 10)", list(pod.routes))
    db.run("select worker.starved_routes(%s, '1 minute')", list(pod.routes))
    for view in ("worker.jobs", "worker.job_details", "worker.queue_depth", "worker.stranded_jobs"):
        db.run(f"select v::text from {view} v")


@pytest.mark.parametrize("state", ["queued", "running"])
def test_no_value_of_a_job_stops_the_tick_a_heartbeat_or_a_view(db: AppTables, pod: Pod, state: str) -> None:
    drop_checks(db, *JOBS)
    subject = db.add_subject()
    for column in columns(db, "public.generation_jobs"):
        if column.type in ("integer", "bigint", "text") and column.name != "attempt":
            continue  # Python holds them all
        for value in column.extremes:
            job = db.ask(subject_id=subject)
            attempt = pod.run("generation", job) if state == "running" else None
            if set_value(db, column, value, job):
                run_and_take_over(db, pod, job, attempt)
            with db.without_triggers():
                db.run("delete from public.generation_jobs")
                db.run("delete from worker.pgqueuer")
            pod.register()


def run_and_take_over(db: AppTables, pod: Pod, job: UUID, attempt: Attempt | None) -> None:
    use(db, pod)
    claim = pod.claim()
    if claim is not None:
        payload = pod.call("start_job", *claim, pod.id)
        if payload and UNREADABLE in payload:
            assert pod.call("set_aside_job", *claim, pod.id, payload[UNREADABLE]) == "failed"
        elif payload:
            attempt = Attempt(pod, *claim, payload["attempt"], payload)
    if attempt is not None:
        assert pod.heartbeat(attempt)["leases"][0]["state"] in ("ok", "timeout", "cancel", "lost")
        attempt.report(float("nan"), "drawing", {"seconds": 1e-320})
    db.run("delete from worker.pods")
    use(db, pod)
    if attempt is not None:
        assert db.one("select status from public.generation_jobs where id = %s", job) != "running"


@pytest.mark.parametrize("how", ["complete", "fail", "release", "take over"])
def test_a_job_whose_counters_are_at_their_limits_can_end(db: AppTables, pod: Pod, how: str) -> None:
    """The CHECKs of its row must not refuse the end: taking over would stop at it, for every other job too."""
    job = db.ask()
    attempt = pod.run("generation", job)
    attempt.report(metrics={"seconds": 100})
    with db.without_triggers():
        db.run("update public.generation_jobs set failures = 20, max_failures = 20, gpu_seconds = 1e12")
    if how == "complete":
        assert attempt.publish() == "ok"
    elif how == "fail":
        assert attempt.fail() in ("queued", "failed")
    elif how == "release":
        assert attempt.release() == "queued"
    else:
        db.run("delete from worker.pods")
        assert db.one("select worker.take_over()") is not None
    assert db.job("generation", job)["status"] != "running"


@pytest.mark.parametrize("table", ["worker.config", "worker.base_models", "worker.job_kinds"])
def test_no_setting_of_an_administrator_stops_the_tick_a_heartbeat_or_a_view(
    db: AppTables, pod: Pod, table: str
) -> None:
    subject = db.add_subject()
    db.ask(subject_id=subject)
    accepted = 0
    for column in columns(db, table):
        if column.name in ("kind", "table_name", "slug", "singleton"):
            continue  # keys
        for value in column.extremes:
            with db.database.transaction(force_rollback=True):
                if not set_value(db, column, value):
                    continue
                accepted += 1
                # An INSERT that it makes impossible is refused, by a CHECK or as a value out of range.
                with suppress(psycopg.DataError, psycopg.IntegrityError), db.database.transaction():
                    db.ask(subject_id=subject)
                use(db, pod)
    assert accepted > 3


def test_logs_are_kept_for_ever_where_no_check_limits_that(db: AppTables, pod: Pod) -> None:
    drop_checks(db, "worker.config")
    for value in EXTREMES["interval"]:
        if set_value(db, Column("worker.config", "keep_logs_for", "interval"), value):
            use(db, pod)


# -- what an earlier release left


def test_the_migration_mends_rows_that_hold_such_values(databases: Databases) -> None:
    name = databases.create()
    url = databases.server.url(name)
    with AppTables.open(url) as db:
        drop_checks(db, *JOBS, "public.subjects", "public.presets", "worker.config", "worker.base_models")
        subject, expired = db.add_subject(), db.add_subject()
        jobs = [db.ask(subject_id=subject) for _ in range(2)]
        with db.without_triggers():
            db.run(
                "update public.generation_jobs set run_after = 'infinity', gpu_seconds = 'NaN' where id = %s", jobs[0]
            )
            db.run("update public.generation_jobs set run_after = '-infinity', failures = 99 where id = %s", jobs[1])
            db.run("update worker.pgqueuer set execute_after = 'infinity'")
            db.run("update public.subjects set consent_expires_at = 'infinity' where id = %s", subject)
            db.run("update public.subjects set consent_expires_at = '-infinity' where id = %s", expired)
            db.run("update worker.config set keep_logs_for = '300000 years', open_jobs_per_owner = 2147483647")
            db.run("update worker.base_models set defaults = '[]' where slug = %s", TINY_BASE)
        migration = (sql_folder() / "migrations" / "0011_values.sql").read_text()
        for table in ("public.subject_photos", "public.subjects_models"):
            drop_checks(db, table)
        drop_checks(db, "worker.life_cycle")
        with db.database.transaction():
            db.database.execute(migration)  # type: ignore[call-overload]
        assert [db.job("generation", job)["run_after"].year for job in jobs] == [9998, 1970]
        assert (db.job("generation", jobs[0])["gpu_seconds"], db.job("generation", jobs[1])["failures"]) == (0, 20)
        assert db.one("select max(execute_after) < '9999-01-01' from worker.pgqueuer")
        ends = [
            db.one("select consent_expires_at from public.subjects where id = %s", each) for each in (subject, expired)
        ]
        assert ends[0] is None
        assert ends[1].year == 1970
        assert db.one("select worker.consent_error(%s, 'training')", subject) is None
        (config,) = db.run("select keep_logs_for <= '1000 years' as kept, open_jobs_per_owner from worker.config")
        assert config == {"kept": True, "open_jobs_per_owner": 1_000_000}
        assert db.one("select defaults from worker.base_models where slug = %s", TINY_BASE) == {}
    databases.drop(name)

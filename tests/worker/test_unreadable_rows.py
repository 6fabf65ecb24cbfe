"""No row ends a pod: jobs with values that Postgres allows and Python cannot hold, on a real worker and in commands."""

from __future__ import annotations

import io
import os
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from tests.commands.conftest import put_nvidia_smi
from tests.forked import Commands
from tests.processes import worker_environment
from tests.sql.extremes import Column, columns, drop_checks
from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet
from worker.commands.job_report import print_job
from worker.commands.status import print_status
from worker.database.owner import connect
from worker.settings import Settings

TYPES = ("timestamp with time zone", "interval", "real", "double precision", "jsonb", "real[]")


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


def set_value(fleet: Fleet, column: Column, value: str, job: UUID) -> bool:
    """Set a column of a job past all triggers, and of its queue row, as an earlier release did. False if refused."""
    table, name = column.identifiers
    app = fleet.app
    app.run("set session_replication_role = replica")
    try:
        statement = f"update {table.as_string(app.database)} set {name.as_string(app.database)} = %s where id = %s"
        if column.type == "interval" and "infinity" in value and app.database.info.server_version < 170000:
            return False
        app.run(statement, value, job)
        if column.name == "run_after":
            key = f"generation:{job}"
            app.run("update worker.pgqueuer set execute_after = %s where dedupe_key = %s", value, key)
    finally:
        app.run("set session_replication_role = origin")
    return True


def jobs_with_extremes(fleet: Fleet) -> dict[UUID, tuple[str, str]]:
    """Request a picture for each extreme of each column; returns column and value by job."""
    table = "public.generation_jobs"
    found: dict[UUID, tuple[str, str]] = {}
    for column in columns(fleet.app, table):  # type: ignore[arg-type]
        for value in column.extremes if column.type in TYPES else ():
            job = fleet.draw(max_failures=1)
            if set_value(fleet, column, value, job):
                found[job] = (column.name, value)
    return found


def test_a_worker_ends_every_such_job_and_goes_on(fleet: Fleet) -> None:
    app = fleet.app
    drop_checks(app, "public.generation_jobs", "public.training_jobs")  # type: ignore[arg-type]
    extremes = jobs_with_extremes(fleet)
    assert len(extremes) > 60
    training = fleet.train(subject_id=fleet.person())
    set_value(fleet, Column("public.training_jobs", "learning_rate", "real"), "NaN", training)
    (worker,) = fleet.ready()

    def open_jobs() -> set[UUID]:
        rows = app.run("select id from public.generation_jobs where status in ('queued', 'running')")
        return {row["id"] for row in rows}

    deferred = {job for job, (name, value) in extremes.items() if name == "run_after" and value[0] in "i29"}
    wait_until(lambda: open_jobs() <= deferred, "every job that is due to end", 240)
    assert fleet.completed("generation", fleet.draw()), "it goes on"
    assert worker.process.poll() is None
    assert app.wait_for("training", training)["error_code"] == "invalid_input"
    codes = {row["id"]: row["error_code"] for row in app.run("select id, error_code from public.generation_jobs")}
    ended = {place: codes[job] for job, place in extremes.items() if job not in deferred}
    assert ended["guidance", "NaN"] == ended["guidance", "Infinity"] == "invalid_input"
    assert {code for (name, _), code in ended.items() if name == "preset"} >= {"invalid_input"}
    assert ended["run_after", "-infinity"] is None
    assert set(ended.values()) <= {None, "invalid_input", "timeout", "internal"}, ended

    shown = Console(file=io.StringIO(), width=200)
    with connect(app.url) as connection:
        print_status(connection, shown)
        for job in extremes:
            print_job(connection, str(job), Settings(_env_file=None), shown)


def test_a_base_model_whose_defaults_cannot_be_read_fails_its_jobs_and_no_others(fleet: Fleet) -> None:
    app = fleet.app
    (worker,) = fleet.ready()
    defaults = app.one("select defaults::text from worker.base_models where slug = %s", TINY_BASE)
    for wrong in ('{"steps": 1e400}', f'{{"steps": {"[" * 3000}{"]" * 3000}}}', f'{{"steps": {"9" * 5000}}}'):
        app.run("update worker.base_models set defaults = %s where slug = %s", wrong, TINY_BASE)
        assert app.wait_for("generation", fleet.draw(steps=None, max_failures=1))["status"] == "failed"
    app.run("update worker.base_models set defaults = %s where slug = %s", defaults, TINY_BASE)
    assert fleet.completed("generation", fleet.draw())
    assert worker.process.poll() is None


def test_a_claim_whose_queue_row_names_another_kind_is_put_right(fleet: Fleet) -> None:
    app = fleet.app
    fleet.ready()
    app.run("update worker.job_kinds set paused = true where kind = 'generation'")
    job = fleet.draw(run_after="2100-01-01")
    key = f"generation:{job}"
    app.run(
        "update worker.pgqueuer set entrypoint = 'publish_lora', payload = 'x', headers = '[1]' where dedupe_key = %s",
        key,
    )
    app.run("update worker.job_kinds set paused = false where kind = 'generation'")
    app.run("update public.generation_jobs set run_after = null where id = %s", job)
    assert fleet.completed("generation", job)


def test_doctor_survives_too(fleet: Fleet, commands: Commands, tmp_path: Path) -> None:
    path = f"{put_nvidia_smi(tmp_path, 'exit 9')}:{os.environ['PATH']}"  # no torch is imported to look for a GPU
    for url in (fleet.app.url, fleet.environment["DATABASE_URL"]):
        environment = {**worker_environment(fleet.app, fleet.processes._models_dir), "DATABASE_URL": url, "PATH": path}
        for command in ("status", "doctor"):
            assert "Traceback" not in commands.run([command], environment, tmp_path).stderr

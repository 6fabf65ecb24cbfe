"""A kind of job from an installed package goes the whole way: migrate, two pods, consent, cancel, removal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.app import App
from tests.kinds.packages import migrate, python_path
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet

JOBS = 50
LONG = {"times": 1000, "pause_ms": 20}
"""Long enough to be stopped in the middle."""


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, echo_package: Path) -> Fleet:
    fleet = make_fleet(PYTHONPATH=python_path(echo_package), WORKER_KINDS="echo")  # no diffusers in its GPU process
    fleet.app.tables["echo"] = "public.echo_jobs"
    ran = migrate(fleet.app.url, packages=(echo_package,))
    assert "likeness-echo: 0001_echo_jobs, likeness-echo: echo, views" in ran.stdout, ran.stderr
    return fleet


def echo(app: App, **columns: object) -> UUID:
    """Ask for an echo as the signed-in owner of a new consenting person."""
    columns = {"subject_id": columns.get("subject_id") or app.add_subject(), "words": "good morning", **columns}
    names = ", ".join(columns)
    places = ", ".join(["%s"] * len(columns))
    with app.acting_as("authenticated", app.owner) as client:
        row = client.execute(
            f"insert into public.echo_jobs ({names}) values ({places}) returning id",  # type: ignore[arg-type]
            list(columns.values()),
        ).fetchone()
    assert row is not None
    job: UUID = row["id"]
    return job


def file_of(app: App, job: dict[str, Any]) -> str:
    (key,) = job["result"]["objects"]
    assert f"/generated/{job['id']}/{job['attempt']}/" in key
    return app.read(app.uploads, key).decode()


def test_two_pods_share_its_jobs_and_publish_each_once(fleet: Fleet) -> None:
    fleet.ready(2)
    jobs = [echo(fleet.app, times=number, pause_ms=5) for number in range(1, JOBS + 1)]
    for number, job_id in enumerate(jobs, 1):
        job = fleet.completed("echo", job_id)
        assert (job["attempt"], job["failures"], job["result"]["times"]) == (1, 0, number)
        assert file_of(fleet.app, job) == "good morning\n" * number
    events = Counter(
        (row["job_id"], row["event"])
        for row in fleet.app.run("select job_id, event from worker.job_events where event in ('started', 'completed')")
    )
    assert events == {(job_id, event): 1 for job_id in jobs for event in ("started", "completed")}
    staged = fleet.app.run("select key, state, attempt from worker.staged_objects")
    assert {(row["state"], row["attempt"]) for row in staged} == {("published", 1)}
    assert sorted(fleet.app.keys(fleet.app.uploads)) == sorted(row["key"] for row in staged)
    assert len(staged) == JOBS
    assert fleet.app.one("select count(*) from worker.pgqueuer") == 0
    share = Counter(row["pod_id"] for row in fleet.app.run("select pod_id from public.echo_jobs"))
    assert len(share) == 2
    assert min(share.values()) > JOBS // 10, share
    with fleet.app.acting_as("authenticated", fleet.app.owner) as client:
        assert client.execute("select from public.echo_jobs").rowcount == len(jobs)
    stranger = fleet.app.add_user(UUID(int=7))
    with fleet.app.acting_as("authenticated", stranger) as client:
        assert client.execute("select from public.echo_jobs").rowcount == 0


def test_its_words_are_screened_at_insert_and_once_more_by_the_worker(fleet: Fleet) -> None:
    fleet.ready(1)
    refused = fleet.app.job("echo", echo(fleet.app, words="a nude"))
    assert (refused["status"], refused["error_code"], refused["attempt"]) == ("failed", "prompt_blocked", 0)
    disguised = fleet.app.wait_for("echo", echo(fleet.app, words="a n u d e"))
    assert (disguised["status"], disguised["error_code"], disguised["attempt"]) == ("failed", "prompt_blocked", 1)
    assert fleet.stored(disguised["id"]) == set()


def test_every_person_it_names_is_asked(fleet: Fleet) -> None:
    pending = fleet.app.add_subject(consent=False)
    assert fleet.app.job("echo", echo(fleet.app, subject_id=pending))["error_code"] == "consent_denied"
    picture = f"{fleet.app.owner}/{pending}/photos/1.jpg"
    assert fleet.app.job("echo", echo(fleet.app, picture_path=picture))["error_code"] == "consent_denied"
    other = fleet.app.add_subject(owner=fleet.app.add_user(UUID(int=8)))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="must begin with the owner's id"):
        echo(fleet.app, picture_path=f"{UUID(int=8)}/{other}/photos/1.jpg")


def test_a_revocation_stops_it_and_nothing_is_published(fleet: Fleet) -> None:
    fleet.ready(1)
    subject = fleet.app.add_subject()
    job_id = echo(fleet.app, subject_id=subject, **LONG)
    fleet.wait_for_phase("echo", job_id, "echoing")
    fleet.app.run("select public.revoke_consent(%s)", subject)
    job = fleet.app.wait_for("echo", job_id)
    assert (job["status"], job["error_code"], job["result"]) == ("failed", "consent_denied", None)
    fleet.wait_swept(job_id)
    assert fleet.stored(job_id) == set()


def test_it_is_cancelled_between_two_steps_and_its_gpu_process_lives_on(fleet: Fleet) -> None:
    for worker in fleet.living()[1:]:
        worker.kill()
    (worker,) = fleet.ready(1)
    gpu_pids = worker.gpu_pids()
    job_id = echo(fleet.app, **LONG)
    fleet.wait_for_phase("echo", job_id, "echoing")
    assert fleet.app.one("select public.cancel_job('echo', %s)", job_id) == "stopping"
    assert fleet.app.wait_for("echo", job_id)["status"] == "cancelled"
    assert worker.gpu_pids() == gpu_pids
    fleet.completed("echo", echo(fleet.app))


def test_without_its_package_everything_else_works_and_its_jobs_say_why_they_wait(
    make_fleet: MakeFleet, echo_package: Path
) -> None:
    fleet = make_fleet(WORKER_KINDS="publish_lora")  # a light start
    fleet.app.tables["echo"] = "public.echo_jobs"
    assert migrate(fleet.app.url, packages=(echo_package,)).returncode == 0
    done = echo(fleet.app)
    fleet.app.run("update public.echo_jobs set status = 'completed', finished_at = now() where id = %s", done)

    refused = migrate(fleet.app.url)
    assert refused.returncode == 1
    assert "kinds of job of likeness-echo, which is not installed here" in refused.stderr
    assert "--without likeness-echo" in refused.stderr
    again = migrate(fleet.app.url, "--without", "likeness-echo")
    assert (again.returncode, again.stdout) == (0, "Up to date: nothing to apply.\n")

    fleet.ready(1)
    waiting = echo(fleet.app)
    wait_until(
        lambda: str(fleet.app.job("echo", waiting)["phase"]).endswith("that package likeness-echo is installed"),
        "the job to say why it waits",
    )
    assert fleet.app.one("select route from worker.stranded_jobs") == "echo"
    assert fleet.app.one("select status from worker.jobs where id = %s", done) == "completed"
    fleet.completed("publish_lora", fleet.copy_lora(fleet.app.add_subject()))
    assert fleet.app.one("select public.cancel_job('echo', %s)", waiting) == "cancelled"

    # Its table gone too: the kind is skipped, and a revocation reaches everybody all the same.
    fleet.app.run("drop table public.echo_jobs cascade")
    wait_until(
        lambda: fleet.app.one("select table_missing_since is not null from worker.job_kinds where kind = 'echo'"),
        "a tick to notice",
    )
    subject = fleet.app.add_subject()
    job_id = fleet.draw(subject_id=subject)
    fleet.app.run("select public.revoke_consent(%s)", subject)
    assert fleet.app.wait_for("generation", job_id)["error_code"] == "consent_denied"
    assert "echo" not in {row["kind"] for row in fleet.app.run("select distinct kind from worker.jobs")}


def test_the_page_about_adding_a_kind_shows_this_package() -> None:
    from tests.docs.blocks import blocks
    from tests.kinds.packages import ECHO

    files = {path.read_text().strip(): path for path in ECHO.rglob("*") if path.suffix in (".py", ".sql", ".toml")}
    shown = [
        files.pop(block.text.strip()).name
        for block in blocks()
        if block.page == "docs/adding-a-job-kind.md" and block.language in ("python", "sql", "toml")
    ]
    assert sorted(shown) == ["0001_echo_jobs.sql", "echo.sql", "kind.py", "performer.py", "pyproject.toml", "task.py"]

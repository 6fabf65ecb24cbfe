"""An installation and a copy of its database with the same buckets, each with pods: nothing of the original is touched.

`COPIES_SECONDS=300 python -m pytest tests/worker/test_copies.py` lets both work side by side for five minutes.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from tests.app import App
from tests.processes import WorkerProcess, WorkerProcesses
from tests.s3_relay import S3Relay
from tests.waiting import wait_until
from tests.worker.conftest import LONG_ECHO, MakeFleet
from tests.worker.fleet import Fleet, as_pod
from worker.database.schema import migrate
from worker.demo import servers
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3
from worker.storage.marker import MARKER_KEY

SECONDS = float(os.environ.get("COPIES_SECONDS", "5"))
PERIOD_S = max(2.0, SECONDS / 20)
"""Instead of the five minutes of `marker_period`."""


@dataclass
class Scene:
    """The original with a pod, whose requests to the store pass through a relay."""

    server: EmbeddedPostgres
    fleet: Fleet
    relay: S3Relay
    folder: Path
    tiny_models: Path

    @contextmanager
    def copy_at(self, url: str) -> Iterator[Copy]:
        """The copy of the database at this URL, with the original's settings."""
        app = replace(self.fleet.app)
        app.reconnect(url)
        with (
            S3Relay(app.s3_server.url()) as relay,
            WorkerProcesses(app, self.tiny_models, self.folder) as processes,
        ):
            yield Copy(app, processes, relay, self.fleet.environment)
            app.database.close()

    def objects(self, job_id: UUID) -> dict[str, str]:
        """Return the published objects of a job with a digest of their bytes, as they are in the store."""
        keys = self.fleet.published(job_id)
        assert keys
        app = self.fleet.app
        found = {}
        for bucket in app.buckets:
            pages = app.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)  # type: ignore[attr-defined]
            found |= {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}
        return {key: found[key] for key in keys}


@dataclass
class Copy:
    app: App
    processes: WorkerProcesses
    relay: S3Relay
    environment: dict[str, str]
    """Of the original's workers."""

    def start(self) -> WorkerProcess:
        changed = {"DATABASE_URL": as_pod(self.app.url), "S3_ENDPOINT_URL": self.relay.url, "WORKER_NAME": "copy"}
        return self.processes.start(ready=False, **{**self.environment, **changed})

    def changes(self) -> list[tuple[str, str]]:
        """Return the requests with which the copy would have deleted or overwritten something of the original."""
        return [
            (method, path)
            for method, path in self.relay.requests
            if method == "DELETE"
            or "?delete" in path
            or (method == "PUT" and path.endswith((MARKER_KEY, "/lora.safetensors")))
        ]


@pytest.fixture
def scene(make_echo_fleet: MakeFleet, s3_server: EmbeddedS3, tiny_models: Path, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(tmp_path / "postgres", fast=True))
        migrate.install_supabase_stubs(server.url())
        migrate.migrate(server.url())
        relay = stack.enter_context(S3Relay(s3_server.url()))
        fleet = make_echo_fleet(server.url(), S3_ENDPOINT_URL=relay.url, WORKER_KINDS="echo,publish_lora")
        fleet.app.set_timings(marker_period=f"{PERIOD_S} seconds", cold_start="1 minute")
        yield Scene(server, fleet, relay, tmp_path, tiny_models)
        for worker in fleet.living():
            worker.kill()


@contextmanager
def base_backup(scene: Scene) -> Iterator[str]:
    """A copy of the server's files, running as a server of its own; yields the URL of its database."""
    folder = scene.folder / "physical"
    folder.mkdir()
    program = str(scene.server.programs / "pg_basebackup")
    subprocess.run(
        [program, "-D", str(folder / "data"), "-d", scene.server.url(), "--checkpoint=fast", "--no-sync"], check=True
    )
    if os.geteuid() == 0:
        servers._give_to_nobody(folder / "data")
    with EmbeddedPostgres(folder, fast=True) as copy:
        yield copy.url()


def dump_and_restore(scene: Scene) -> str:
    """Restore a dump into a new database of the same server; returns its URL."""
    with psycopg.connect(scene.server.url(), autocommit=True) as connection:
        connection.execute("create database restored")
    url = scene.server.url("restored")
    dump = subprocess.run([str(scene.server.programs / "pg_dump"), scene.server.url()], check=True, capture_output=True)
    restore = [str(scene.server.programs / "psql"), "-q", "-v", "ON_ERROR_STOP=1", url]
    subprocess.run(restore, input=dump.stdout, check=True, stdout=subprocess.DEVNULL)
    return url


def revoke_during_a_job(fleet: Fleet) -> UUID:
    """Revoke consent while a job of that person runs; returns the job, whose objects are deleted."""
    person = fleet.app.add_subject()
    job_id = fleet.echo(subject_id=person, **LONG_ECHO)
    fleet.wait_for_phase("echo", job_id, "echoing")
    fleet.app.run("select public.revoke_consent(%s)", person)
    fleet.app.wait_for("echo", job_id)
    return job_id


def work_side_by_side(scene: Scene, copy: Copy, published: list[UUID]) -> None:
    """Publish, revoke and sweep in both for a while."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        published.append(scene.fleet.echo())
        scene.fleet.completed("echo", published[-1])
        scene.fleet.wait_swept(revoke_during_a_job(scene.fleet))
        copy.app.request("echo", owner_id=copy.app.owner, words="good morning")


def leave_something_to_delete(copy: Copy, published: list[UUID]) -> None:
    """In the copy, objects that the original has published belong to attempts that failed."""
    copy.app.run(
        "update worker.staged_objects set state = 'deleting', offer_after = now() where job_id = any(%s)", published
    )
    assert copy.app.one("select count(*) from worker.staged_objects where state = 'deleting'") > 0


def test_a_copy_of_the_servers_files_gives_way(scene: Scene) -> None:
    """It is taken while the original renews its markers, so that it knows the nonce that is written afterwards."""
    scene.fleet.ready(1)
    person = scene.fleet.app.add_subject()
    scene.fleet.completed("publish_lora", scene.fleet.copy_lora(person))
    published = [scene.fleet.echo(subject_id=person), scene.fleet.echo()]
    for job_id in published:
        scene.fleet.completed("echo", job_id)
    before = {job_id: scene.objects(job_id) for job_id in published}
    renewal = scene.relay.hold("PUT", MARKER_KEY, "before")
    assert renewal.reached.wait(60)
    with base_backup(scene) as url, scene.copy_at(url) as copy:
        leave_something_to_delete(copy, published)
        pod = copy.start()
        wait_until(lambda: pod.events("bucket.marker"), "the copy's pod to look at the markers", 60)
        assert copy.app.one("select worker.installation_error()") is None, "nothing tells them apart yet"
        renewal.let_go()
        wait_until(lambda: copy.app.one("select worker.installation_error()"), "the copy to give way", 60)
        work_side_by_side(scene, copy, published)
        assert pod.process.poll() is None
        last = copy.app.one("select id from public.echo_jobs order by created_at desc limit 1")
        assert copy.app.job("echo", last)["status"] == "queued"
        assert copy.start().process.wait(60) == 2
        assert copy.changes() == []
        assert scene.fleet.app.one("select worker.installation_error()") is None
    after = {job_id: scene.objects(job_id) for job_id in published}
    assert {job_id: after[job_id] for job_id in before} == before
    assert scene.fleet.app.one("select worker.is_settled()")


def test_a_restored_dump_starts_nothing_until_moved_and_then_deletes_nothing_that_it_does_not_know(
    scene: Scene,
) -> None:
    """The dump is taken in the middle of jobs, whose original attempts then publish."""
    scene.fleet.ready(1)
    published = [scene.fleet.echo()]
    scene.fleet.completed("echo", published[0])
    running = scene.fleet.echo(times=400, pause_ms=20)
    scene.fleet.wait_for_phase("echo", running, "echoing")
    url = dump_and_restore(scene)
    with scene.copy_at(url) as copy:
        leave_something_to_delete(copy, published)
        refused = copy.start()
        assert refused.process.wait(60) == 2
        assert "worker installation moved" in refused.log_path.read_text()
        scene.fleet.completed("echo", running)
        published += [running]
        work_side_by_side(scene, copy, published)
        assert copy.changes() == []
        lost = {job_id: scene.objects(job_id) for job_id in published[1:]}
        for worker in scene.fleet.living():  # the original is lost
            worker.terminate()
        marker = copy.app.one("select worker.move_installation()")
        for bucket in copy.app.buckets:
            copy.app.put_marker(bucket, marker)
        copy.app.run("update worker.staged_objects set state = 'published' where state = 'deleting'")
        restored = copy.start()
        restored.wait_ready()
        job = copy.app.wait_for("echo", running)
        assert (job["status"], job["attempt"]) == ("completed", 2)
        assert all(f"/2-{marker['era']}/" in key for key in job["result"]["objects"])
        wait_until(lambda: copy.app.one("select worker.is_settled()"), "the moved installation to be settled", 60)
        wait_until(lambda: not copy.app.one("select worker.tick()"), "the sweep", 60)
        still = {job_id: scene.objects(job_id) for job_id in lost if job_id != running}
        assert still == {job_id: objects for job_id, objects in lost.items() if job_id != running}

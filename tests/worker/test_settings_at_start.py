"""A wrong setting ends `worker run` at its start with exit code 2; the error names it and shows an example."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app import App
from tests.conftest import Databases
from tests.processes import worker_environment
from tests.worker.fleet import MAKE_POD_ROLE, as_pod
from worker.errors import SettingsError
from worker.queue import Worker
from worker.settings import Settings


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def refusal(app: App, folder: Path, **changes: str | None) -> str:
    """Return the error of `worker run` with these settings. None removes a variable."""
    environment = {**worker_environment(app, folder / "models"), **changes}
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "run"],
        env={name: value for name, value in environment.items() if value is not None},
        cwd=folder,  # no .env here
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert app.one("select count(*) from worker.pods") == 0
    return ended.stderr


def refused_here(app: App, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> str:
    """Return the error of a worker in this process, which `worker run` prints: a process takes a second longer."""
    for name, value in {**worker_environment(app, folder / "models"), **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)  # no .env here
    with pytest.raises(SettingsError) as refused:
        asyncio.run(Worker(Settings.load()).run())
    assert app.one("select count(*) from worker.pods") == 0
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "named", "example"),
    [
        ({"DATABASE_URL": None}, "DATABASE_URL", "postgresql://"),
        ({"DATABASE_URL": "mysql://somewhere/db"}, "DATABASE_URL", "postgresql://"),
        (
            {"DATABASE_URL": "postgresql://pod:marker-secret@127.0.0.1:{closed}/postgres"},
            "DATABASE_URL",
            "postgresql://",
        ),
        ({"S3_ENDPOINT_URL": None}, "S3_ENDPOINT_URL", "https://"),
        ({"S3_ENDPOINT_URL": "http://127.0.0.1:{closed}"}, "S3_ENDPOINT_URL", "https://"),
        ({"S3_ACCESS_KEY_ID": None}, "S3_ACCESS_KEY_ID", "ACCESS_KEY_ID"),
        ({"WORKER_KINDS": "training,sculpture"}, "WORKER_KINDS", "training"),
        ({"BUCKET_UPLOADS": "elsewhere"}, "BUCKET_UPLOADS", "uploads-"),
        ({"BUCKET_MODELS": "elsewhere"}, "BUCKET_MODELS", "models-"),
        ({"WORK_DIR": "/proc/likeness"}, "WORK_DIR", "set WORK_DIR to a folder"),
        ({"MODELS_DIR": "/proc/likeness"}, "MODELS_DIR", "set MODELS_DIR to a folder"),
        ({"MODELS_DIR": __file__}, "MODELS_DIR", "set MODELS_DIR to a folder"),
        ({"UPSCALER": "bicubic"}, "UPSCALER", "spandrel"),
        ({"MAX_AFFINITY_WAIT_SECONDS": "soon"}, "MAX_AFFINITY_WAIT_SECONDS", "60"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_with_an_example(
    app: App,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str | None],
    named: str,
    example: str,
) -> None:
    closed = str(closed_port())
    error = refused_here(
        app,
        tmp_path,
        monkeypatch,
        **{name: value and value.replace("{closed}", closed) for name, value in changes.items()},
    )
    assert re.search(rf"\b{named}\b", error)
    assert example in error
    assert "marker-secret" not in error


@pytest.mark.parametrize("variable", ["BUCKET_UPLOADS", "BUCKET_MODELS"])
def test_a_missing_bucket_is_named(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    app.run(f"update worker.config set {variable.lower()} = 'no-such-bucket'")
    error = refused_here(app, tmp_path, monkeypatch, **{variable: "no-such-bucket"})
    assert variable in error
    assert "bucket no-such-bucket not found" in error


def test_a_missing_schema_is_reported_with_the_migrate_command(app: App, databases: Databases, tmp_path: Path) -> None:
    bare = databases.create("template1")
    try:
        error = refusal(app, tmp_path, DATABASE_URL=databases.server.url(bare))
    finally:
        databases.drop(bare)
    assert "DATABASE_URL" in error
    assert "worker migrate" in error


def test_a_schema_of_a_newer_release_is_refused(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app.run("create or replace function worker.schema_major() returns integer language sql as 'select 2'")
    assert "newer worker" in refused_here(app, tmp_path, monkeypatch)


@pytest.mark.parametrize("function", ["pod_heartbeat", "usable_routes"])
def test_a_schema_that_was_not_migrated_is_refused(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    app.run(f"drop function worker.{function}")
    assert "worker migrate" in refused_here(app, tmp_path, monkeypatch)


def test_a_role_without_a_pods_rights_is_refused_with_the_role_to_grant(app: App, tmp_path: Path) -> None:
    role = f"stranger_{tmp_path.name.replace('-', '_')}"[:60].lower()
    app.run(f"create role {role} login")
    try:
        error = refusal(app, tmp_path, DATABASE_URL=app.url.replace("postgres@", f"{role}@"))
    finally:
        app.run(f"drop role {role}")
    assert "likeness_worker" in error


def test_every_problem_is_reported_at_once(app: App, tmp_path: Path) -> None:
    error = refusal(app, tmp_path, DATABASE_URL=None, S3_ENDPOINT_URL=None, S3_SECRET_ACCESS_KEY=None)
    for variable in ("DATABASE_URL", "S3_ENDPOINT_URL", "S3_SECRET_ACCESS_KEY"):
        assert variable in error


def test_the_pods_role_is_sufficient(app: App, tmp_path: Path) -> None:
    """The control: with only the rights of `likeness_worker`, only the unreachable store is an error."""
    app.run(MAKE_POD_ROLE)
    nowhere = f"http://127.0.0.1:{closed_port()}"
    error = refusal(app, tmp_path, DATABASE_URL=as_pod(app.url), S3_ENDPOINT_URL=nowhere)
    assert "S3_ENDPOINT_URL" in error
    assert "DATABASE_URL" not in error

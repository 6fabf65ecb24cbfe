"""A wrong or missing setting is named, with an example, and the worker exits with code 2 before it starts anything."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app import App
from tests.processes import worker_environment


def refused(environment: dict[str, str], folder: Path) -> str:
    """What `worker run` says when it refuses to start; `folder` is where no .env file is."""
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "run"],
        env={**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{Path.cwd()}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    assert "for example" in said
    assert "Traceback" not in said
    assert "worker.ready" not in said
    return said


def a_closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def environment(app: App, tmp_path: Path) -> dict[str, str]:
    return worker_environment(app, tmp_path / "models")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", None),
        ("S3_ENDPOINT_URL", None),
        ("CHECKPOINT_EVERY", "soon"),
        ("WORKER_KINDS", "training,juggling"),
        ("BUCKET_UPLOADS", "another-bucket"),
    ],
)
def test_a_wrong_or_missing_setting_is_named(
    environment: dict[str, str], tmp_path: Path, name: str, value: str | None
) -> None:
    environment.pop(name, None)
    assert name in refused(environment | ({name: value} if value is not None else {}), tmp_path)


def test_a_database_that_nobody_answers_for_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    secret = "hunter2hunter2"
    url = f"postgresql://postgres:{secret}@127.0.0.1:{a_closed_port()}/postgres"
    said = refused(environment | {"DATABASE_URL": url}, tmp_path)
    assert "DATABASE_URL" in said
    assert secret not in said


def test_a_store_that_nobody_answers_for_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    said = refused(environment | {"S3_ENDPOINT_URL": f"http://127.0.0.1:{a_closed_port()}"}, tmp_path)
    assert "S3_ENDPOINT_URL" in said


def test_a_missing_bucket_is_named(app: App, environment: dict[str, str], tmp_path: Path) -> None:
    app.s3.delete_bucket(Bucket=app.models)
    assert app.models in refused(environment, tmp_path)


def test_a_database_without_the_schema_is_told_to_migrate(
    app: App, environment: dict[str, str], tmp_path: Path
) -> None:
    app.run("drop schema worker cascade")
    assert "worker migrate" in refused(environment, tmp_path)


def test_a_schema_of_a_newer_major_version_is_refused(app: App, environment: dict[str, str], tmp_path: Path) -> None:
    app.run("create or replace function worker.schema_major() returns integer language sql as 'select 2'")
    assert "newer worker" in refused(environment, tmp_path)


def test_a_role_that_may_not_work_here_is_told_what_to_grant(
    app: App, environment: dict[str, str], tmp_path: Path
) -> None:
    app.run("create role stranger login")
    try:
        said = refused(environment | {"DATABASE_URL": app.url.replace("postgres@", "stranger@")}, tmp_path)
        assert "grant likeness_worker" in said
    finally:
        app.run("drop role stranger")

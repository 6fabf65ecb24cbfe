"""What worker processes import, connect to, know and log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Databases
from tests.proxy import PostgresProxy
from tests.s3_relay import S3Relay
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet, as_pod
from worker.demo.servers import EmbeddedS3

PASSWORD, ACCESS_KEY, SECRET_KEY = "db-password-marker", "access-key-marker", "secret-key-marker"
ELSEWHERE = {
    "SUPABASE_SERVICE_ROLE_KEY": "role-key-marker",
    "HF_TOKEN": "hub-token-marker",
    "aws_secret_access_key": "lower-case-marker",
}
"""Secrets that a pod's host may have set, whether this worker uses them or not."""
MARKERS = (PASSWORD, ACCESS_KEY, SECRET_KEY, *ELSEWHERE.values())

CONNECT_ELSEWHERE = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"


def test_the_queue_process_imports_no_machine_learning_libraries() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import worker.queue, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"worker.queue", "psycopg", "pgqueuer"} <= set(loaded)
    for package in ("torch", "diffusers", "transformers", "peft", "spandrel", "safetensors", "boto3"):
        assert package not in loaded


@pytest.fixture(scope="module")
def proxy(databases: Databases) -> Iterator[PostgresProxy]:
    with databases.fresh() as url, PostgresProxy(url) as made:
        yield made


@pytest.fixture(scope="module")
def relay(s3_server: EmbeddedS3) -> Iterator[S3Relay]:
    with S3Relay(s3_server.url()) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(make_echo_fleet: MakeFleet, databases: Databases, proxy: PostgresProxy, relay: S3Relay) -> Fleet:
    """One worker with recognizable secrets."""
    fleet = make_echo_fleet(
        databases.server.url(proxy.url.rsplit("/", 1)[1]),
        DATABASE_URL=as_pod(proxy.url).replace("@", f":{PASSWORD}@"),
        S3_ENDPOINT_URL=relay.url,
        S3_ACCESS_KEY_ID=ACCESS_KEY,
        S3_SECRET_ACCESS_KEY=SECRET_KEY,
        WORKER_KINDS="echo,publish_lora",
        **ELSEWHERE,
    )
    fleet.ready(1)
    return fleet


def environment_of(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(word.decode().split("=", 1) for word in words if b"=" in word)


def test_neither_process_can_connect_to_another_machine(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    (gpu_pid,) = worker.gpu_pids()
    for pid in (worker.pid, gpu_pid):
        tried = subprocess.run(
            [sys.executable, "-P", "-c", CONNECT_ELSEWHERE], env=environment_of(pid), capture_output=True, text=True
        )
        assert "PermissionError: the tests' network guard" in tried.stderr


def test_the_gpu_process_is_offline_and_has_no_secrets(fleet: Fleet) -> None:
    (worker,) = fleet.ready(1)
    (gpu_pid,) = worker.gpu_pids()
    environment = environment_of(gpu_pid)
    assert (environment["HF_HUB_OFFLINE"], environment["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    assert environment["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    text = json.dumps(environment)
    assert [marker for marker in MARKERS if marker in text] == []
    names = ("DATABASE_URL", "S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", *ELSEWHERE)
    assert [name for name in names if name in environment] == []
    assert [name for name in names if name not in environment_of(worker.pid)] == []


def test_the_gpu_process_lets_torch_expand_its_segments(fleet: Fleet) -> None:
    """By the variable that every supported torch reads."""
    (worker,) = fleet.ready(1)
    (gpu_pid,) = worker.gpu_pids()
    environment = environment_of(gpu_pid)
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    ask = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    asked = subprocess.run([sys.executable, "-P", "-c", ask], env=environment, capture_output=True, text=True)
    assert asked.stdout.strip() == "expandable_segments:True"


def test_no_secret_reaches_a_log_or_a_row_whatever_goes_wrong(
    fleet: Fleet, proxy: PostgresProxy, relay: S3Relay
) -> None:
    """Last in this file, because it stops the store."""
    (worker,) = fleet.ready(1)
    # Missing inputs.
    person = fleet.app.add_subject()
    lora = fleet.app.add_lora(person)  # without its file
    copying = {"owner_id": fleet.app.owner, "subject_id": person, "payload": Jsonb({"model_id": str(lora)})}
    missing = fleet.app.wait_for("publish_lora", fleet.app.request("publish_lora", **copying, max_failures=1))
    assert (missing["status"], missing["failures"]) == ("failed", 1)
    # A dying GPU process, and all database connections broken and refused.
    job_id = fleet.echo(times=1000, pause_ms=50)
    fleet.wait_for_phase("echo", job_id, "echoing")
    for application in ("likeness session", f"likeness {os.uname().nodename}"[:63]):
        proxy.refuse(application)
    proxy.cut()
    wait_until(lambda: worker.events("session.lost") and worker.events("heartbeat.failed"), "the worker to detect it")
    for application in ("likeness session", f"likeness {os.uname().nodename}"[:63]):
        proxy.allow(application)
    (gpu_pid,) = worker.gpu_pids()
    os.kill(gpu_pid, signal.SIGKILL)
    wait_until(lambda: len(fleet.started(job_id)) == 2, "the second attempt", 90)
    fleet.app.run("select public.cancel_job('echo', %s)", job_id)
    fleet.app.wait_for("echo", job_id)
    # A store that refuses connections.
    relay.stop()
    job_id = fleet.copy_lora(person)
    fleet.app.run("update worker.internal_jobs set max_failures = 1 where id = %s", job_id)
    assert fleet.app.wait_for("publish_lora", job_id)["error_code"] == "storage_error"
    log = worker.log_path.read_text()
    rows = [
        str(row)
        for table in ("public.echo_jobs", "worker.internal_jobs", "worker.job_events", "worker.pods")
        for row in fleet.app.run(f"select * from {table}")
    ]
    assert [marker for marker in MARKERS if marker in log] == []
    assert [marker for marker in MARKERS if any(marker in row for row in rows)] == []
    assert worker.process.poll() is None

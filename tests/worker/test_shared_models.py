"""Production and staging share a bucket of base models in a store of their own, and nothing else.

Three real servers: the pods' database, the store of people's files, and that of base models.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.processes import worker_environment
from tests.s3_relay import S3Relay
from tests.tiny_models import TINY_BASE
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet
from worker.demo.servers import EmbeddedS3
from worker.models import UPSCALERS
from worker.storage.marker import MARKER_KEY

BUCKET = "base-models"
READER, WRITER = "models-reader", "models-writer"


class ModelsStore(S3Relay):
    """The store of base models. The key READER may only read; `asked` has each request with its key."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.asked: list[tuple[str, str, str]] = []

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        key = re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", ""))
        assert key is not None, "a request without a key"
        self.asked.append((key[1], request.command, request.path))
        if key[1] == READER and request.command not in ("GET", "HEAD"):
            request.rfile.read(int(request.headers.get("Content-Length", 0)))
            request.send_error(403)
        else:
            super().pass_on(request)

    def settings(self, key: str) -> dict[str, str]:
        return {
            "MODELS_S3_BUCKET": BUCKET,
            "MODELS_S3_ENDPOINT_URL": self.url,
            "MODELS_S3_ACCESS_KEY_ID": key,
            "MODELS_S3_SECRET_ACCESS_KEY": "its-secret",
        }


@pytest.fixture
def models_server() -> Iterator[EmbeddedS3]:
    with EmbeddedS3() as server:
        yield server


@pytest.fixture
def models_store(models_server: EmbeddedS3) -> Iterator[ModelsStore]:
    with ModelsStore(models_server.url()) as store:
        yield store


def objects(server: EmbeddedS3) -> dict[str, str]:
    """Return the keys of the bucket of base models, with a digest of their bytes."""
    s3: Any = boto3.client(
        "s3",
        endpoint_url=server.url(),
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name=server.region,
    )
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}


def operator(fleet: Fleet, models_dir: Path, *words: str, **environment: str) -> None:
    """Run a command as the database owner of an environment."""
    ran = subprocess.run(
        [sys.executable, "-m", "worker", *words],
        env={**worker_environment(fleet.app, models_dir), **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_two_environments_share_base_models_and_pods_only_read_them(
    make_fleet: MakeFleet, models_server: EmbeddedS3, models_store: ModelsStore, tiny_models: Path, tmp_path: Path
) -> None:
    reads, writes = models_store.settings(READER), models_store.settings(WRITER)
    production, staging = (make_fleet(models_dir=tmp_path / name, **reads) for name in ("production", "staging"))
    disk = shutil.copytree(tiny_models, tmp_path / "disk")  # a push writes the manifest there
    operator(production, disk, "storage", "init", **writes)
    assert objects(models_server) == {}
    for slug in (TINY_BASE, *UPSCALERS.values()):
        operator(production, disk, "models", "push", slug, **writes)
    operator(staging, disk, "storage", "init", **reads)
    before = objects(models_server)
    assert before
    assert all(key.startswith("models/base/") for key in before)

    for fleet in (production, staging):
        fleet.start(ready=False)
    for fleet in (production, staging):
        (worker,) = fleet.living()
        worker.wait_ready()
        person = fleet.person()
        if fleet is production:
            trained = fleet.train(subject_id=person)
            fleet.completed("training", trained)
            fleet.wait_swept(trained)
        fleet.completed("generation", fleet.draw())
        swept = fleet.draw(subject_id=person, steps=100, num_images=4)
        fleet.wait_for_phase("generation", swept, "drawing")
        fleet.app.run("select public.revoke_consent(%s)", person)
        fleet.app.wait_for("generation", swept)
        fleet.wait_swept(swept)
        assert fleet.app.keys(fleet.app.models, "models/") == []
        assert fleet.app.read(fleet.app.models, MARKER_KEY)
        assert worker.terminate() == 0

    assert objects(models_server) == before, "something was written, marked or swept"
    assert {key for key, _, _ in models_store.asked} == {READER, WRITER}, "a key of another store was sent"
    by_pods = {method for key, method, _ in models_store.asked if key == READER}
    assert by_pods <= {"GET", "HEAD"}
    assert {path.split("?")[0].split("/")[1] for _, _, path in models_store.asked} == {BUCKET}
    assert os.listdir(tmp_path / "staging")


def test_a_pod_whose_key_cannot_read_base_models_names_the_setting(
    make_fleet: MakeFleet, models_store: ModelsStore
) -> None:
    """Instead of starting with the models on its disk alone, which nobody would notice."""
    fleet = make_fleet(**models_store.settings(READER))
    pod = fleet.start(ready=False)
    assert pod.process.wait(60) == 2
    said = pod.log_path.read_text()
    assert f"bucket {BUCKET} not found" in said
    assert "MODELS_S3_BUCKET" in said

"""`worker models push` and `list` as an operator types them, with and without a database and a bucket."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.app import App
from tests.processes import worker_environment
from tests.s3_relay import S3Relay
from tests.storage.bases import BIG, write_base
from worker.models.manifest import Origin, build_manifest, write_manifest

ORIGIN = Origin(source="tiny-lab/tiny-flux", revision="0123456789abcdef", licence="tiny-licence")


def run(models_dir: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    env = {**os.environ, "MODELS_DIR": str(models_dir), **environment}
    command = [sys.executable, "-m", "worker", "models", *arguments]
    done = subprocess.run(command, env=env, cwd=models_dir, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def row(table: str, slug: str) -> str:
    """Return the line of a model, with one space between columns."""
    (line,) = (line for line in table.splitlines() if line.split()[:1] == [slug])
    return " ".join(line.split())


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A base model as a pull leaves it, one added by hand, and an upscaler."""
    disk = tmp_path / "models"
    write_manifest(write_base(disk / "tiny-flux"), build_manifest(disk / "tiny-flux", ORIGIN))
    write_base(disk / "by-hand", {"model_index.json": b"{}"})
    write_base(disk / "real-esrgan-x4", {"model.safetensors": b"0"})
    return disk


def test_the_list_shows_disk_bucket_and_database(app: App, disk: Path) -> None:
    environment = worker_environment(app, disk)
    code, said, _ = run(disk, "push", "tiny-flux", **environment)
    assert (code, "Pods find it within half a minute" in said) == (0, True)
    app.s3.put_object(Bucket=app.models, Key="models/base/half/vae.safetensors", Body=b"0")
    code, table, _ = run(disk, "list", "--check", **environment)
    assert code == 0
    assert row(table, "tiny-flux") == (
        "tiny-flux flux none: random weights yes 0.00 verified complete 0123456789ab "
        "training/tiny-flux, generation/tiny-flux"
    )
    assert row(table, "ip-adapter-sd15") == "ip-adapter-sd15 sd15 Apache-2.0 yes - - reference for sd15, 1.4 GiB more"
    assert row(table, "by-hand") == "by-hand 0.00 added by hand - none: not in worker.base_models or worker.guides"
    assert (
        row(table, "half") == "half 0.00 - incomplete: push it again none: not in worker.base_models or worker.guides"
    )
    assert row(table, "real-esrgan-x4").endswith("added by hand - generation/*, which needs both upscalers")
    assert row(table, "flux-dev") == (
        "flux-dev flux FLUX.1 [dev] Non-Commercial no - - "
        "training/flux-dev from 10.75 GiB free, generation/flux-dev from 7.5 GiB free"
    )


def test_without_database_and_bucket_it_lists_the_disk_and_damage_is_an_error(disk: Path) -> None:
    (disk / "tiny-flux" / BIG).write_bytes(os.urandom(400_000))
    os.utime(disk / "tiny-flux" / BIG, (0, 0))  # as a copy that preserved the times
    code, table, said = run(disk, "list", DATABASE_URL="", S3_ENDPOINT_URL="")
    assert row(table, "tiny-flux") == "tiny-flux tiny-licence 0.00 complete - 0123456789ab"
    assert "DATABASE_URL is not set: family, licence and routes of registered models are not shown" in table
    assert "the S3 settings are missing: the bucket is not listed" in table
    assert (code, said) == (0, "")
    code, table, said = run(disk, "list", "--check", DATABASE_URL="", S3_ENDPOINT_URL="")
    assert row(table, "tiny-flux").startswith(f"tiny-flux tiny-licence 0.00 damaged: {BIG} -")
    assert (code, "damaged: tiny-flux" in said) == (1, True)


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that not even root may write to")
def test_a_read_only_disk_does_not_make_models_in_the_bucket_damaged(app: App, disk: Path) -> None:
    environment = worker_environment(app, disk)
    assert run(disk, "push", "tiny-flux", **environment)[0] == 0
    code, table, said = run(disk, "list", **{**environment, "MODELS_DIR": "/sys/likeness-models"})
    assert (code, said) == (0, "")
    assert " - complete 0123456789ab " in row(table, "tiny-flux")


def test_a_failing_disk_is_named_with_its_error(disk: Path) -> None:
    (disk / "by-hand" / "manifest.json").symlink_to("/proc/self/mem")  # its beginning cannot be read
    code, _, said = run(disk, "list", DATABASE_URL="", S3_ENDPOINT_URL="")
    assert (code, f"{disk}: Input/output error" in said) == (1, True)


class ManifestsRefused(S3Relay):
    """A store that lists its objects but refuses to return manifests, as for credentials with too few permissions."""

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if request.command == "GET" and "manifest.json" in request.path:
            request.send_error(403)
        else:
            super().pass_on(request)


def test_a_store_that_refuses_is_noted_and_no_model_counts_as_damaged(app: App, disk: Path) -> None:
    environment = worker_environment(app, disk)
    assert run(disk, "push", "tiny-flux", **environment)[0] == 0
    with ManifestsRefused(app.s3_server.url()) as store:
        code, table, said = run(disk, "list", **{**environment, "S3_ENDPOINT_URL": store.url})
    assert (code, said) == (0, "")
    assert f"the bucket is not listed: reading {app.models}/models/base/tiny-flux/manifest.json failed: " in table


class WritesRefused(S3Relay):
    """A store whose key may only read, as a pod's."""

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if request.command in ("PUT", "POST", "DELETE"):
            request.rfile.read(int(request.headers.get("Content-Length", 0)))
            request.send_error(403)
        else:
            super().pass_on(request)


def test_push_and_list_need_the_store_of_base_models_only(app: App, disk: Path) -> None:
    bucket = f"bases-{app.models}"
    app.s3.create_bucket(Bucket=bucket)
    server = app.s3_server
    own = {
        "MODELS_S3_BUCKET": bucket,
        "MODELS_S3_ENDPOINT_URL": server.url(),
        "MODELS_S3_ACCESS_KEY_ID": server.access_key_id,
        "MODELS_S3_SECRET_ACCESS_KEY": server.secret_access_key,
    }
    code, said, _ = run(disk, "push", "tiny-flux", **own)
    assert (code, f"tiny-flux is in the bucket {bucket}" in said) == (0, True)
    assert run(disk, "push", "tiny-flux", **worker_environment(app, disk), **own)[0] == 0
    assert app.keys(app.models) == []
    _, table, _ = run(disk, "list", **own)
    assert f"and {bucket}" in " ".join(table.split())
    assert " complete complete " in row(table, "tiny-flux")


def test_a_push_with_a_key_that_may_only_read_names_the_setting(app: App, disk: Path) -> None:
    with WritesRefused(app.s3_server.url()) as store:
        environment = {**worker_environment(app, disk), "MODELS_S3_ENDPOINT_URL": store.url}
        code, _, said = run(disk, "push", "tiny-flux", **environment)
    assert code == 1
    assert "responded 403" in said
    assert "set MODELS_S3_ACCESS_KEY_ID and MODELS_S3_SECRET_ACCESS_KEY" in said

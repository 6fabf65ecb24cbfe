"""A real PgBouncer before a server, where this machine has the program (Debian's package is `pgbouncer`)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.waiting import wait_until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MODES = ("session", "transaction")


@contextmanager
def pgbouncer(folder: Path, server_url: str, mode: str) -> Iterator[str]:
    """Run it in this pool mode, otherwise with its defaults; yields the address that replaces `server_url`."""
    assert PROGRAM is not None
    parts = urlsplit(server_url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir(parents=True)
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = host=127.0.0.1 port={parts.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users.txt'}\npool_mode = {mode}\n"
    )
    with psycopg.connect(server_url) as connection:
        roles = [name for (name,) in connection.execute("select rolname from pg_roles where rolcanlogin").fetchall()]
    (folder / "users.txt").write_text("".join(f'"{name}" ""\n' for name in roles))
    os.chmod(folder, 0o755)
    command = [PROGRAM, *(["-u", "nobody"] if os.geteuid() == 0 else []), str(ini)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))
    try:
        wait_until(lambda: _answers(url) or process.poll() is not None, "PgBouncer to answer", 10)
        assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True

"""A demo process, watched from outside with all of its descendants."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row


@dataclass
class DemoProcess:
    """A running demo with the tiny base, and every descendant seen so far: process id and start time."""

    process: subprocess.Popen[bytes]
    output: Path
    screen: Path
    temporary: Path
    family: set[tuple[int, str]] = field(default_factory=set)
    _seen: str = ""

    def says(self, text: str) -> bool:
        assert self.process.poll() is None, self.screen.read_text()
        screen = self.screen.read_text()
        if screen != self._seen:
            self._seen = screen
            self.look()
        return text in screen

    def look(self) -> None:
        """Note every process that descends from the demo now."""
        parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
        descendants = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in descendants} - descendants:
            descendants |= more
        self.family |= {(pid, started) for pid in descendants if (started := _started(pid))}

    def running(self, module: str) -> list[int]:
        """The ids of the living processes seen so far that run this module."""
        self.look()
        words = {pid: _command(pid) for pid, started in self.family if _started(pid) == started}
        return [pid for pid, command in words.items() if f"-m {module}" in command and "/bin/sh" not in command]

    def end(self, number: int) -> int:
        """Send a signal to the processes that a terminal would signal; returns the exit code."""
        self.look()
        os.killpg(self.process.pid, number)
        return self.process.wait(60)

    def assert_nothing_is_left(self) -> None:
        assert [_command(pid) for pid, started in self.family if _started(pid) == started] == []
        assert [str(path) for path in self.temporary.rglob("*")] == []

    def database(self) -> psycopg.Connection[dict[str, Any]]:
        """Connect to the demo's database, found by its server's own files."""
        (lock,) = self.temporary.glob("likeness-demo-*/postgres/data/postmaster.pid")
        url = f"postgresql://postgres@127.0.0.1:{lock.read_text().splitlines()[3]}/postgres"
        return psycopg.connect(url, autocommit=True, row_factory=dict_row)


def start_demo(folder: Path, *options: str) -> DemoProcess:
    output, screen, temporary = folder / "output", folder / "screen.txt", folder / "tmp"
    temporary.mkdir()
    with screen.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo.tiny_demo", "--output", str(output), *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                "TMPDIR": str(temporary),
                "COLUMNS": "300",
                # the demo must ignore another installation's settings
                "DATABASE_LISTEN_URL": "postgresql://other@203.0.113.1/production",
                "WORKER_KINDS": "mesh",
            },
        )
    return DemoProcess(process, output, screen, temporary)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def _parent(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[1]) if stat else None


def _started(pid: int) -> str | None:
    """Return when a living process started, in ticks, because process ids are reused."""
    stat = _stat(pid)
    return stat[19] if stat and stat[0] != "Z" else None

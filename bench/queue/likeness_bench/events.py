"""Events of the workers under measurement: datagrams on loopback, so that sending one costs next to nothing."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

PORT = "BENCH_EVENTS_PORT"
WITHIN_S = 60.0

_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def send(name: str, job: object) -> None:
    """Send an event of a job, with the time of the wall clock."""
    message = json.dumps({"event": name, "job": str(job), "at": time.time(), "pid": os.getpid()})
    _socket.sendto(message.encode(), ("127.0.0.1", int(os.environ[PORT])))


@dataclass(frozen=True)
class Event:
    """An event of a job; `at` is in seconds since the epoch."""

    event: str
    job: str
    at: float
    pid: int


class Events:
    """Receives events, and appends each to a file as it was sent."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(WITHIN_S)
        self._file = path.open("a", encoding="utf-8")
        self.port = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        self._file.close()

    def note(self, **raw: object) -> None:
        """Append a line of the bench's own to the file."""
        self._file.write(json.dumps(raw) + "\n")

    def stream(self) -> Iterator[Event]:
        """Yield events as they arrive. Raises TimeoutError when none came for a minute."""
        while True:
            message = self._socket.recv(65536).decode()
            self._file.write(message + "\n")
            yield Event(**json.loads(message))

    def until(self, name: str, jobs: set[str]) -> list[Event]:
        """Return the events up to the one that completes `name` for all of these jobs."""
        seen: list[Event] = []
        missing = set(jobs)
        for event in self.stream():
            seen.append(event)
            if event.event == name:
                missing.discard(event.job)
            if not missing:
                return seen
        raise AssertionError("the stream does not end")

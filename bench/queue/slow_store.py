"""A store as far away as a bucket is: a relay that holds each request back for a moment."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

DELAY_S = 0.3


def relay(target: str) -> str:
    """Start a relay in front of an HTTP server, as threads of this process; returns its URL."""
    address = urlsplit(target)
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((str(address.hostname), address.port or 80))
            for source, drain, delay_s in ((client, server, DELAY_S), (server, client, 0.0)):
                threading.Thread(target=_pump, args=(source, drain, delay_s), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _pump(source: socket.socket, drain: socket.socket, delay_s: float) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            time.sleep(delay_s)
            drain.sendall(data)
    with suppress(OSError):
        drain.shutdown(socket.SHUT_WR)

"""A relay in front of an S3 server that can hold requests: before the body, in the middle of it, or the response."""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

When = Literal["before", "half", "response"]
"""Held before the request, in the middle of the body (of the response's, for a GET), or before the response."""


@dataclass
class Held:
    """One held request. Call `let_go` in the end, or its thread waits forever."""

    method: str
    part: str
    when: When
    reached: threading.Event = field(default_factory=threading.Event)
    """Set once the request is held."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set once the request was let go and everything it sends has reached the server."""
    _released: threading.Event = field(default_factory=threading.Event)

    def let_go(self) -> None:
        self._released.set()

    def wait(self) -> None:
        self.reached.set()
        self._released.wait()


class S3Relay:
    """Forwards requests to the server at `target`. Bodies must be small: they are kept in memory.

    `changed_headers` are those of responses that a gateway changes, in lower case; it drops those that are None.
    """

    def __init__(self, target: str) -> None:
        self.changed_headers: dict[str, str | None] = {}
        address = urlsplit(target)
        self._target = (address.hostname or "127.0.0.1", address.port or 80)
        self._waiting: list[Held] = []
        self._all: list[Held] = []
        self._lock = threading.Lock()
        self._stopped = False
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request, in the order in which they arrived."""
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                relay.pass_on(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients disconnect
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Accept no more connections. Can be called again."""
        self._stopped = True
        for held in self._all:
            held.let_go()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def hold(self, method: str, part: str, when: When) -> Held:
        """Hold the next request of a method whose path contains `part`."""
        held = Held(method, part, when)
        with self._lock:
            self._waiting.append(held)
            self._all.append(held)
        return held

    def _held(self, method: str, path: str) -> Held | None:
        with self._lock:
            for held in self._waiting:
                if held.method == method and held.part in path:
                    self._waiting.remove(held)
                    return held
        return None

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if self._stopped:  # on a kept-alive connection
            request.close_connection = True
            return
        self.requests.append((request.command, request.path))
        held = self._held(request.command, request.path)
        server = http.client.HTTPConnection(*self._target)
        try:
            self._exchange(request, server, held)
        except OSError:
            request.close_connection = True  # the client disconnected
        finally:
            server.close()
            if held is not None:
                held.over.set()

    def _exchange(self, request: BaseHTTPRequestHandler, server: http.client.HTTPConnection, held: Held | None) -> None:
        when = held.when if held else None
        length = int(request.headers.get("Content-Length", 0))
        if held and when == "before":
            held.wait()
        server.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in ("expect", "connection"):
                server.putheader(name, value)
        server.endheaders()
        first = length // 2 if when == "half" and length else length
        server.send(request.rfile.read(first))
        if held and when == "half" and length:
            held.wait()
            rest = request.rfile.read(length - first)
            if len(rest) < length - first:
                raise ConnectionError("the client disconnected in the middle of its body")
            server.send(rest)
        response = server.getresponse()
        body = response.read()
        if held and when == "response":
            held.wait()
        self._send_head(request, response, len(body))
        if held and when == "half" and not length:
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            held.wait()
            body = body[len(body) // 2 :]
        with suppress(BrokenPipeError):
            request.wfile.write(body)

    def _send_head(self, request: BaseHTTPRequestHandler, response: http.client.HTTPResponse, length: int) -> None:
        request.send_response(response.status, response.reason)
        size = response.getheader("Content-Length", "0") if request.command == "HEAD" else str(length)
        hop_by_hop = ("connection", "transfer-encoding", "content-length", "date", "server")
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in hop_by_hop]
        for name, value in [*headers, ("Content-Length", size)]:
            sent = self.changed_headers.get(name.lower(), value)
            if sent is not None:
                request.send_header(name, sent)
        if "content-length" in self.changed_headers:
            request.send_header("Connection", "close")  # the end of the body
        request.end_headers()

"""A man in the middle who speaks Postgres: loses replies the server has committed to, cuts, refuses, mutes.

It knows where messages begin and end, so that a reply is lost whole, and only once the server has said that it is ready
for the next statement: by then an autocommit statement is committed.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import urlsplit, urlunsplit

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
READY_FOR_QUERY, NOTIFICATION = b"Z", b"A"
END_OF_STATEMENT = (b"S", b"Q", b"X", b"p")
"""Sync, a simple query, goodbye, a password: what comes before belongs to the same statement."""
_LENGTH = struct.Struct("!I")


@dataclass
class LostReply:
    """A reply that is going to be lost: the first one to a statement with all of `texts` in it or its arguments."""

    texts: list[bytes]
    lost: threading.Event = field(default_factory=threading.Event)


class PostgresProxy:
    """Passes connections on to the server of `url`. Use its own `url` instead."""

    def __init__(self, url: str, *, mute: bool = False) -> None:
        """`mute`: notifications never arrive, as behind a transaction-mode pooler."""
        self._parts = urlsplit(url)
        self.target_port = self._parts.port or 5432
        self._mute = mute
        self._losses: list[LostReply] = []
        self._refused: set[str] = set()
        self._lines: set[_Line] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def url(self) -> str:
        return urlunsplit(self._parts._replace(netloc=f"{self._parts.username}@127.0.0.1:{self.port}"))

    def lose_reply_to(self, *texts: str) -> LostReply:
        """The next statement with these texts commits, then its connection breaks before the reply arrives."""
        loss = LostReply([text.encode() for text in texts])
        with self._lock:
            self._losses.append(loss)
        return loss

    def cut(self, application: str | None = None) -> int:
        """Break the connections of an application (default: all); returns how many."""
        with self._lock:
            lines = [line for line in self._lines if application in (None, line.application)]
        for line in lines:
            line.close()
        return len(lines)

    def refuse(self, application: str) -> None:
        """Take no more connections of an application until `allow`."""
        self._refused.add(application)

    def allow(self, application: str) -> None:
        self._refused.discard(application)

    # -- what the lines ask

    def is_mute(self) -> bool:
        return self._mute

    def is_refused(self, application: str) -> bool:
        return application in self._refused

    def take_loss(self, statement: bytes) -> LostReply | None:
        """The loss that is meant for this statement."""
        with self._lock:
            for loss in self._losses:
                if all(text in statement for text in loss.texts):
                    self._losses.remove(loss)
                    return loss
        return None

    def forget(self, line: _Line) -> None:
        with self._lock:
            self._lines.discard(line)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:  # the server is down, and looks so
                    client.close()
                    continue
                line = _Line(self, client, server)
                with self._lock:
                    self._lines.add(line)
                for work in (line.pass_up, line.pass_down):
                    threading.Thread(target=work, daemon=True).start()


class _Line:
    """One connection: a thread for each direction."""

    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self.application = ""
        self._proxy, self._client, self._server = proxy, client, server
        self._losing: LostReply | None = None

    def pass_up(self) -> None:
        try:
            with self._client.makefile("rb") as stream:
                if self._start(stream):
                    statement = b""
                    while message := _read_message(stream):
                        statement += message
                        if message.startswith(END_OF_STATEMENT):
                            self._losing = self._losing or self._proxy.take_loss(statement)
                            self._server.sendall(statement)
                            statement = b""
        except OSError:
            pass
        finally:
            self.close()

    def pass_down(self) -> None:
        try:
            with self._server.makefile("rb") as stream:
                while message := _read_message(stream):
                    if self._losing is not None:
                        if message.startswith(READY_FOR_QUERY):
                            break
                    elif not (message.startswith(NOTIFICATION) and self._proxy.is_mute()):
                        self._client.sendall(message)
        except OSError:
            pass
        finally:
            self.close()
            if self._losing is not None:
                self._losing.lost.set()

    def close(self) -> None:
        self._proxy.forget(self)
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, stream: BinaryIO) -> bool:
        """The part before messages have types; False when this connection is not to be."""
        while True:
            head = stream.read(8)
            if len(head) < 8:
                return False
            length, code = struct.unpack("!II", head)
            if code not in (SSL_REQUEST, GSS_REQUEST):
                break
            self._client.sendall(b"N")
        body = stream.read(length - 8)
        words = body.split(b"\0")
        if b"application_name" in words:
            self.application = words[words.index(b"application_name") + 1].decode()
        if self._proxy.is_refused(self.application):
            return False
        self._server.sendall(head + body)
        return True


def _read_message(stream: BinaryIO) -> bytes:
    """One message with its type and length; empty at the end of the stream."""
    head = stream.read(5)
    if len(head) < 5:
        return b""
    (length,) = _LENGTH.unpack(head[1:])
    body = stream.read(length - 4)
    return head + body if len(body) == length - 4 else b""

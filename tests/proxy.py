"""A Postgres proxy that can lose replies, cut and refuse connections, and drop notifications.

It parses messages, so that it drops a reply as a whole, and only after the server has reported that it is ready for the
next statement: by then an autocommit statement is committed.
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
BACKEND_KEY = b"K"
PARSE, BIND, SIMPLE_QUERY = b"P", b"B", b"Q"
READY_FOR_QUERY, NOTIFICATION = b"Z", b"A"
END_OF_STATEMENT = (b"S", b"Q", b"X", b"p")
"""Sync, simple query, terminate, password: they end a sequence of messages that forms one statement."""
_LENGTH = struct.Struct("!I")


@dataclass
class LostReply:
    """A reply to lose: the first one to a statement with all of `texts` in its text or arguments."""

    texts: list[bytes]
    lost: threading.Event = field(default_factory=threading.Event)


class PostgresProxy:
    """Forwards connections to the server of `url`. Clients use the proxy's own `url`."""

    def __init__(self, url: str, *, mute: bool = False, invents_pids: bool = False) -> None:
        """With `mute`, notifications never arrive, as behind a transaction-mode pooler.

        With `invents_pids`, clients are told another process id than the server's, as every pooler does.
        """
        self._parts = urlsplit(url)
        self.target_port = self._parts.port or 5432
        self._mute = mute
        self.invents_pids = invents_pids
        self._losses: list[LostReply] = []
        self._refused: set[str] = set()
        self._connections: set[_Connection] = set()
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
        """Let the next statement with these texts commit, and break its connection before the reply arrives."""
        loss = LostReply([text.encode() for text in texts])
        with self._lock:
            self._losses.append(loss)
        return loss

    def cut(self, application: str | None = None) -> int:
        """Break the connections of an application (default: all); returns how many."""
        with self._lock:
            connections = [
                connection for connection in self._connections if application in (None, connection.application)
            ]
        for connection in connections:
            connection.close()
        return len(connections)

    def refuse(self, application: str) -> None:
        """Accept no more connections of an application until `allow`."""
        self._refused.add(application)

    def allow(self, application: str) -> None:
        self._refused.discard(application)

    # -- called by connections

    def is_mute(self) -> bool:
        return self._mute

    def is_refused(self, application: str) -> bool:
        return application in self._refused

    def take_loss(self, statement: bytes) -> LostReply | None:
        """Return the loss planned for this statement, and forget it."""
        with self._lock:
            for loss in self._losses:
                if all(text in statement for text in loss.texts):
                    self._losses.remove(loss)
                    return loss
        return None

    def forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:  # the server is down, and clients must see that
                    client.close()
                    continue
                connection = _Connection(self, client, server)
                with self._lock:
                    self._connections.add(connection)
                for work in (connection.pass_up, connection.pass_down):
                    threading.Thread(target=work, daemon=True).start()


class _Connection:
    """One connection: a thread for each direction."""

    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self.application = ""
        self._proxy, self._client, self._server = proxy, client, server
        self._losing: LostReply | None = None
        self._prepared: dict[bytes, bytes] = {}

    def pass_up(self) -> None:
        try:
            with self._client.makefile("rb") as stream:
                if self._start(stream):
                    statement, text = b"", b""
                    while message := _read_message(stream):
                        statement += message
                        text += self._text_of(message)
                        if message.startswith(END_OF_STATEMENT):
                            if text:
                                self._losing = self._losing or self._proxy.take_loss(text)
                            self._server.sendall(statement)
                            statement, text = b"", b""
        except OSError:
            pass
        finally:
            self.close()

    def _text_of(self, message: bytes) -> bytes:
        """Return what a message executes, text and arguments; nothing of one that only prepares."""
        if message.startswith(PARSE):
            name, text, _ = message[5:].split(b"\0", 2)
            self._prepared[name] = text
            return b""
        if message.startswith(BIND):
            _, name, arguments = message[5:].split(b"\0", 2)
            return self._prepared.get(name, b"") + arguments
        return message if message.startswith(SIMPLE_QUERY) else b""

    def pass_down(self) -> None:
        try:
            with self._server.makefile("rb") as stream:
                while message := _read_message(stream):
                    if self._losing is not None:
                        if message.startswith(READY_FOR_QUERY):
                            break
                    elif not (message.startswith(NOTIFICATION) and self._proxy.is_mute()):
                        if message.startswith(BACKEND_KEY) and self._proxy.invents_pids:
                            message = message[:5] + _LENGTH.pack(1) + message[9:]
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
        """Forward the startup messages, which have no types; returns False if this connection is refused."""
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
    """Read one message with its type and length; empty at the end of the stream."""
    head = stream.read(5)
    if len(head) < 5:
        return b""
    (length,) = _LENGTH.unpack(head[1:])
    body = stream.read(length - 4)
    return head + body if len(body) == length - 4 else b""

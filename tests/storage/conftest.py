"""A real S3 server, a relay in front of it, and servers that misbehave."""

import asyncio
import os
import re
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.forked import Commands
from tests.quick_boto import shared_descriptions  # noqa: F401
from tests.storage.hub import REPO, Hub
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Unique strings, so that tests can search for them where they must not appear.
ACCESS_KEY_ID = "AKIDMARKER"
SECRET = "secret-key-marker"
SESSION_TOKEN = "session-token-marker"


def config_for(port: int) -> StoreConfig:
    return StoreConfig(
        endpoint_url=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET,
        session_token=SESSION_TOKEN,
    )


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(scope="session")
def plain_s3(s3_port: int) -> "S3Client":
    """A plain client, to store objects that our store would refuse and to inspect what it did."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{s3_port}",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )


@pytest.fixture(scope="session")
def store(s3_port: int) -> Iterator[ObjectStore]:
    """One store for all tests and their event loops: creating a client takes longer than most tests."""
    store = ObjectStore(config_for(s3_port))
    yield store
    asyncio.run(store.close())


@pytest.fixture
async def bucket(store: ObjectStore) -> str:
    name = f"test-{uuid.uuid4().hex}"
    await store.ensure_bucket(name)
    return name


class Relay:
    """Forwards connections to the S3 server, records requests, and can hold or cut responses."""

    MIN_RESPONSE_BYTES = 200_000  # of responses that are held or cut: these have a body

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sent: list[bytearray] = []
        self._breaks = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self.holding = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def requests(self) -> list[str]:
        """Return the head of every request so far."""
        with self._lock:
            texts = [bytes(sent).decode("latin-1") for sent in self._sent]
        return [head for text in texts for head in re.findall(r"(?:GET|PUT|POST|HEAD|DELETE) /[\s\S]*?\r\n\r\n", text)]

    def asked(self, method: str, part: str) -> list[str]:
        """Return the requests of a method whose first line contains `part`."""
        return [head for head in self.requests() if head.startswith(f"{method} ") and part in head.split("\r\n", 1)[0]]

    def break_answers(self, times: int) -> None:
        """Cut the connection in the middle of the next `times` long responses."""
        self._breaks = times

    def hold_answers(self) -> None:
        """Hold long responses in the middle; `holding` is set when one is held."""
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def stop(self) -> None:
        self._open.set()
        self._listener.close()
        for connection in self._sockets:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target_port))
            sent = bytearray()
            with self._lock:
                self._sent.append(sent)
                self._sockets += [client, server]
            threading.Thread(target=self._upwards, args=(client, server, sent), daemon=True).start()
            threading.Thread(target=self._downwards, args=(server, client), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, sent: bytearray) -> None:
        try:
            while piece := client.recv(65536):
                with self._lock:
                    sent += piece
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            server.close()

    def _downwards(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        try:
            while piece := server.recv(65536):
                client.sendall(piece)
                passed = len(piece) if piece.startswith(b"HTTP/") else passed + len(piece)
                if passed < self.MIN_RESPONSE_BYTES:
                    continue
                if not self._open.is_set():
                    self.holding.set()
                    self._open.wait()
                if self._take_break():
                    break
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            client.close()

    def _take_break(self) -> bool:
        with self._lock:
            if self._breaks == 0:
                return False
            self._breaks -= 1
            return True


@pytest.fixture
def relay(s3_port: int) -> Iterator[Relay]:
    relay = Relay(s3_port)
    yield relay
    relay.stop()


@pytest.fixture
async def relayed(relay: Relay) -> AsyncIterator[ObjectStore]:
    """A store behind `relay`."""
    store = ObjectStore(config_for(relay.port))
    yield store
    relay.let_go()
    await store.close()


Pull = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def pulling() -> Iterator[Commands]:
    """A process of its own: the hub's library reads its address when it is imported, as commands of other tests do."""
    with Commands() as made:
        yield made


@pytest.fixture
def pull(pulling: Commands) -> Pull:
    """Run `worker models pull`: pull(hub, disk, *arguments, **environment); returns exit code, output and errors."""

    def run(hub: Hub, disk: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
        words = ["models", "pull", *(arguments or (REPO, "--as", "flux-dev"))]
        ran = pulling.run(words, pull_environment(hub, disk) | environment, disk.parent)
        return ran.code, ran.stdout, ran.stderr

    return run


def pull_environment(hub: Hub, disk: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(disk.parent / "hf"), "MODELS_DIR": str(disk)}
    return {**kept, **settings, "HF_HUB_DOWNLOAD_TIMEOUT": "5"}


Answer = tuple[int, str]
MakeStore = Callable[[Callable[[str, str], Answer]], ObjectStore]


@pytest.fixture
async def answering() -> AsyncIterator[MakeStore]:
    """Stores whose server responds with what a function of (method, path) returns: a status and a body."""
    opened: list[tuple[ThreadingHTTPServer, ObjectStore]] = []

    def make(answer: Callable[[str, str], Answer]) -> ObjectStore:
        class Handler(BaseHTTPRequestHandler):
            def reply(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = reply

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        opened.append((server, ObjectStore(config_for(server.server_port))))
        return opened[-1][1]

    yield make
    for server, store in opened:
        await store.close()
        server.shutdown()
        server.server_close()


@pytest.fixture
async def silent() -> AsyncIterator[ObjectStore]:
    """A store whose server accepts every connection and request, and never responds."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    ending = threading.Event()

    def refuse(connection: socket.socket) -> None:
        # This response is not retried, so it ends the thread that waits for one.
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def swallow(connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(65536):
                if ending.is_set():
                    refuse(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=swallow, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    store = ObjectStore(config_for(listener.getsockname()[1]))
    yield store
    ending.set()
    for connection in list(connections):
        refuse(connection)
    await store.close()

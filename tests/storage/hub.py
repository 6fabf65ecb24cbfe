"""The part of a Hugging Face hub that a pull needs: repositories, ranges of files, gates, and broken connections."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "tiny-lab/tiny-flux"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Files of more bytes are stored as LFS objects, with a SHA-256."""


@dataclass
class Hub:
    """The hub's contents and behaviour. Tests change it while it runs."""

    files: dict[str, bytes]
    """Of REPO."""
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of further repositories, by their names."""
    card: dict[str, object] = field(default_factory=lambda: {"license": "apache-2.0"})
    gate: str = ""
    """The token that a request for a file must send; empty if the repository is not gated."""
    hold_after: int | None = None
    """Stop sending a body after this many bytes, and set `holding`."""
    spoil: set[str] = field(default_factory=set)
    """Files whose next response has a wrong byte."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of each request for a file."""
    holding: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def of(self, repo: str) -> dict[str, bytes] | None:
        return self.files if repo == REPO else self.others.get(repo)

    def info(self, repo: str) -> bytes:
        siblings = []
        for name, content in (self.of(repo) or {}).items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": blob}
            if len(content) > LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        described = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "cardData": self.card}
        return json.dumps(described).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.reply()

    def do_GET(self) -> None:
        self.reply()

    def reply(self) -> None:
        path = self.path.split("?")[0]
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        if match and self.hub.of(match[1]) is not None:
            known = match[2] in (None, "main", "v1", COMMIT)
            return self.answer(200, self.hub.info(match[1])) if known else self.refuse(404, "RevisionNotFound")
        match = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path)
        if match and self.hub.of(match[1]) is not None:
            return self.file(match[1], match[2])
        if match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            assert "Authorization" not in self.headers, "a signed URL must not receive the token"
            return self.content(match[1], match[2])
        return self.refuse(401, "RepoNotFound")

    def file(self, repo: str, name: str) -> None:
        files = self.hub.of(repo) or {}
        self.hub.asked.append((self.command, name, self.headers.get("Range", "")))
        token = self.headers.get("Authorization", "")
        if self.hub.gate and token != f"Bearer {self.hub.gate}":
            return self.refuse(403 if token else 401, "GatedRepo")
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        if len(files[name]) > LARGE:
            address = self.hub.address.replace("127.0.0.1", "localhost")
            return self.answer(302, b"", {"Location": f"{address}/cdn/{repo}/{name}?X-Amz-Signature=signature-marker"})
        return self.content(repo, name)

    def content(self, repo: str, name: str) -> None:
        content = whole = (self.hub.of(repo) or {})[name]
        if self.command == "GET" and name in self.hub.spoil:
            self.hub.spoil.discard(name)
            content = bytes([content[0] ^ 1]) + content[1:]
        tag = hashlib.sha256(whole).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.command == "GET":
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], headers)
        return self.answer(200, content, headers)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.hold_after is not None and len(body) > self.hub.hold_after:
            self.wfile.write(body[: self.hub.hold_after])
            self.wfile.flush()
            self.hub.holding.set()
            with suppress(OSError):
                self.connection.recv(1)  # until the client disconnects
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    handler = type("OfThisHub", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

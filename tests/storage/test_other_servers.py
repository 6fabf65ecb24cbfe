"""Servers and gateways that leave out headers, decode less, or have no regions."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.s3_relay import S3Relay
from tests.storage.conftest import config_for
from worker.errors import InputMissing, StorageError
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import PART_BYTES

SIZES = {"empty": 0, "small": 1000, "large": PART_BYTES + 7}


@pytest.fixture
def gateway(s3_port: int) -> Iterator[S3Relay]:
    with S3Relay(f"http://127.0.0.1:{s3_port}") as relay:
        yield relay


@pytest.fixture
async def behind(gateway: S3Relay) -> AsyncIterator[ObjectStore]:
    """A store behind `gateway`."""
    store = ObjectStore(config_for(int(gateway.url.rpartition(":")[2])))
    yield store
    await store.close()


@pytest.fixture
async def objects(store: ObjectStore, bucket: str, tmp_path: Path) -> dict[str, bytes]:
    """An empty, a small and a large object."""
    contents = {name: os.urandom(size) for name, size in SIZES.items()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        await store.upload(bucket, name, tmp_path / name, "application/octet-stream")
    return contents


CHANGES = [
    {"content-length": None, "last-modified": "yesterday", "expires": "never"},
    {"etag": ""},
    {"content-length": None, "etag": None, "last-modified": None, "content-type": None, "accept-ranges": None},
]


@pytest.mark.parametrize("changed", CHANGES, ids=str)
async def test_every_method_does_without_a_header_or_names_it(behind, gateway, bucket, objects, tmp_path, changed):
    gateway.changed_headers = dict(changed)
    assert await behind.ensure_bucket(bucket) == "existed"
    await behind.require_bucket(bucket)
    assert {info.key: info.size for info in await behind.list(bucket)} == SIZES
    for name, content in objects.items():
        info = await behind.head(bucket, name)
        assert (info.key, info.size) == (name, len(content))
        assert await behind.read(bucket, name) == content
        await behind.download(bucket, name, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content
        await behind.copy(bucket, name, f"copy/{name}")
        assert await behind.read(bucket, f"copy/{name}") == content
    assert await behind.is_public(bucket, "small", objects["small"]) in (True, False)
    assert await behind.head(bucket, "missing") is None
    for name in ("empty", "small"):
        await behind.upload(bucket, f"again/{name}", tmp_path / name, "text/plain")
        assert await behind.read(bucket, f"again/{name}") == objects[name]
    await behind.delete(bucket, [f"copy/{name}" for name in objects])
    large = behind.upload(bucket, "again/large", tmp_path / "large", "text/plain")
    if changed.get("etag", "there"):
        await large
        assert await behind.read(bucket, "again/large") == objects["large"]
    else:  # the protocol completes an upload in parts with their ETags
        with pytest.raises(StorageError, match=r"uploading .*again/large failed: .* UploadPart has no header ETag"):
            await large


async def test_a_length_that_is_not_a_number_is_named(behind, gateway, bucket, objects, tmp_path):
    gateway.changed_headers = {"content-length": "7, 7"}
    for attempt in (
        behind.head(bucket, "small"),
        behind.read(bucket, "small"),
        behind.download(bucket, "small", tmp_path / "out"),
    ):
        with pytest.raises(StorageError, match=r"has no header Content-Length that is a number"):
            await attempt


async def test_a_part_of_unknown_place_is_refused_and_leaves_no_file(behind, gateway, bucket, objects, tmp_path):
    """The file would have the length of its first part."""
    gateway.changed_headers = {"content-range": None}
    with pytest.raises(StorageError, match=r"downloading .*/large failed: .* GetObject has no header Content-Range"):
        await behind.download(bucket, "large", tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


async def test_a_server_that_ignores_ranges_sends_a_large_object_whole(answering, tmp_path):
    content = "x" * SIZES["large"]
    asked = []

    def answer(method: str, path: str) -> tuple[int, str]:
        asked.append((method, path))
        return 200, content

    store = answering(answer)
    await store.download("b", "k", tmp_path / "out")
    assert hashlib.sha256((tmp_path / "out").read_bytes()).digest() == hashlib.sha256(content.encode()).digest()
    assert asked == [("GET", "/b/k")]


Refuses = Callable[[BaseHTTPRequestHandler, bytes], bool]


@pytest.fixture
async def server_that_refuses() -> AsyncIterator[Callable[[int, Refuses], ObjectStore]]:
    """Stores whose server responds with a status to what a function of request and body refuses, to all else with 200.

    No bucket exists.
    """
    opened: list[tuple[ThreadingHTTPServer, ObjectStore]] = []

    def make(status: int, refuses: Refuses) -> ObjectStore:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = b"<CopyObjectResult/>" if "x-amz-copy-source" in self.headers else b""
                self.send_response(status if refuses(self, body) else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_HEAD(self) -> None:
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        config = config_for(server.server_port)
        opened.append((server, ObjectStore(replace(config, region="eu-west-1"))))
        return opened[-1][1]

    yield make
    for server, store in opened:
        await store.close()
        server.shutdown()
        server.server_close()


COPIED = ["a b", "a+b", "a(b)", "a@b", "a=b", "a,b", "a%20b", "a%2Bb", "a&b;c", "a'b", "a:b", "a*b", "a~b", "a#b?c"]


class TestCopy:
    async def test_a_source_with_special_characters_is_copied(self, store, bucket, tmp_path):
        (tmp_path / "in").write_bytes(b"content")
        for name in COPIED:
            await store.upload(bucket, f"p/{name}", tmp_path / "in", "text/plain")
            await store.copy(bucket, f"p/{name}", f"copy of {name}")
            assert await store.read(bucket, f"copy of {name}") == b"content"

    @pytest.mark.parametrize("status", [404, 400])
    async def test_so_is_one_on_a_server_that_does_not_decode_it(self, server_that_refuses, status):
        sources = []
        name = ""

        def refuses(request: BaseHTTPRequestHandler, body: bytes) -> bool:
            sources.append(request.headers["x-amz-copy-source"])
            return sources[-1] != f"b/p/{name}"

        store = server_that_refuses(status, refuses)
        for name in COPIED:
            await store.copy("b", f"p/{name}", "copy")
            assert sources[-1] == f"b/p/{name}"

    async def test_a_missing_source_is_missing_whether_decoded_or_not(self, store, bucket):
        with pytest.raises(InputMissing, match=r"p/a\+b not found in storage"):
            await store.copy(bucket, "p/a+b", "copy")


class TestNewBuckets:
    async def test_the_region_of_the_settings_is_the_buckets(self, s3_port, plain_s3):
        """Amazon refuses a bucket outside us-east-1 that does not name its region."""
        config = config_for(s3_port)
        store = ObjectStore(replace(config, region="eu-central-1"))
        assert await store.ensure_bucket("of-frankfurt") == "created"
        assert await store.ensure_bucket("of-frankfurt") == "existed"
        await store.close()
        where = await asyncio.to_thread(plain_s3.get_bucket_location, Bucket="of-frankfurt")
        assert where["LocationConstraint"] == "eu-central-1"

    @pytest.mark.parametrize("status", [400, 501])
    async def test_a_server_that_refuses_regions_gets_none(self, server_that_refuses, status):
        bodies = []

        def refuses(request: BaseHTTPRequestHandler, body: bytes) -> bool:
            bodies.append(body)
            return b"eu-west-1" in body

        assert await server_that_refuses(status, refuses).ensure_bucket("b") == "created without a region"
        assert [b"eu-west-1" in body for body in bodies] == [True, False]

    async def test_a_denial_is_not_tried_again_without_a_region(self, server_that_refuses):
        bodies = []
        store = server_that_refuses(403, lambda request, body: bodies.append(body) is None)
        with pytest.raises(StorageError, match="creating bucket b failed: the server responded 403"):
            await store.ensure_bucket("b")
        assert len(bodies) == 1

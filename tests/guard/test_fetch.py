"""Guarded requests against real servers on loopback: what is refused, and before anything is sent."""

from __future__ import annotations

import asyncio
import datetime
import http.server
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from tests.web_server import Answer, Server, body, redirect, serving
from worker.errors import InputMissing, InvalidInput, StorageError, WorkerError
from worker.guard.fetch import Fetcher, Limits, is_public
from worker.guard.picture_types import why_not_a_picture

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 1000
LIMITS = Limits(max_bytes=100_000, seconds=5)
SECRET = "token=abcdef"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.answers.clear()
    running.asked.clear()
    return running


def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Send a picture that never ends, and whose size is not announced."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(PNG), PNG))


async def fetched(
    url: str, path: Path, *, allowed: str | None = None, limits: Limits = LIMITS, **parts: object
) -> bytes:
    fetcher = Fetcher([allowed] if allowed else [], **parts)  # type: ignore[arg-type]
    await fetcher.fetch(url, path, limits, why_not_a_picture)
    return await asyncio.to_thread(path.read_bytes)


async def refusal(url: str, path: Path, **options: object) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        await fetched(url, path, **options)  # type: ignore[arg-type]
    return raised.value


async def test_a_picture_is_written_with_its_query_sent_as_it_is(server: Server, tmp_path: Path) -> None:
    server.answers["/mug%20(1).png"] = body(PNG)
    url = server.url(f"/mug%20(1).png?{SECRET}&name=Caf%C3%A9+au+lait")
    assert await fetched(url, tmp_path / "got", allowed=server.host) == PNG
    assert server.asked == [url.removeprefix(server.url(""))]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_relative_ones_too(server: Server, tmp_path: Path, status: int) -> None:
    server.answers["/a/old"] = redirect("../new?size=large", status)
    server.answers["/new"] = body(PNG)
    assert await fetched(server.url("/a/old"), tmp_path / "got", allowed=server.host) == PNG
    assert server.asked == ["/a/old", "/new?size=large"]


NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "2001::1",
    "2001:0:808:808::1",
    "100::1",
    "5f00::1",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "2606:4700::1111",
    "2001:4860:4860::8888",
    "64:ff9b::8.8.8.8",
    "::ffff:8.8.8.8",
]


async def test_an_address_that_is_not_public_is_refused_unconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)  # nothing may be connected
    answers = iter(NOT_PUBLIC)

    async def resolve(host: str, port: int) -> list[str]:
        return ["8.8.8.8", next(answers)]

    fetcher = Fetcher(resolve=resolve)
    for address in NOT_PUBLIC:
        with pytest.raises(InvalidInput) as raised:
            await fetcher.fetch("https://shop.example/mug.png", tmp_path / "got", LIMITS, why_not_a_picture)
        assert raised.value.message == "shop.example is not a public host", address


def test_addresses_of_the_internet_are_public() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0"]
)
async def test_every_way_to_write_loopback_is_refused(host: str, tmp_path: Path) -> None:
    error = await refusal(f"https://{host}/", tmp_path / "got")
    assert "is not a public host" in error.message


async def test_a_redirect_to_a_private_address_is_refused_unasked(server: Server, tmp_path: Path) -> None:
    with serving() as inside:
        inside.answers["/latest/meta-data/"] = body(PNG)
        server.answers["/mug.png"] = redirect(inside.url("/latest/meta-data/", "https"))
        error = await refusal(server.url("/mug.png"), tmp_path / "got", allowed=server.host)
        assert type(error) is InvalidInput
        assert error.message == "127.0.0.1 is not a public host"
        assert inside.asked == []


async def test_a_redirect_to_http_is_refused_unasked(server: Server, tmp_path: Path) -> None:
    with serving() as inside:
        server.answers["/mug.png"] = redirect(inside.url("/x"))
        error = await refusal(server.url("/mug.png"), tmp_path / "got", allowed=server.host)
        assert error.message == "127.0.0.1 must be asked with https, not http"
        assert inside.asked == []


async def test_a_redirect_that_the_caller_refuses_is_not_followed(server: Server, tmp_path: Path) -> None:
    async def refuse(url: str) -> None:
        raise InvalidInput(f"not {url}")

    server.answers |= {"/mug.png": redirect("/other.png"), "/other.png": body(PNG)}
    with pytest.raises(InvalidInput, match="not " + re.escape(server.url("/other.png"))):
        await Fetcher([server.host]).fetch(server.url("/mug.png"), tmp_path / "got", LIMITS, why_not_a_picture, refuse)
    assert len(server.asked) == 1


async def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that points to a public address first, and to loopback when it is asked again."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    asked, connected = [], []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return next(answers)

    async def connect(self: object, connection: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.get_running_loop().__class__, "sock_connect", connect)
    error = await refusal(f"https://rebinding.example:{server.port}/", tmp_path / "got", resolve=resolve)
    assert error.message == "rebinding.example does not accept a connection"
    assert asked == [("rebinding.example", server.port)]
    assert connected == [("93.184.216.34", server.port)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for shop.example with its key, which is also its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("shop.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "shop.pem"
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(encoded + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("host", "trusted"), [("shop.example", True), ("other.example", True), ("shop.example", False)]
)
async def test_tls_checks_the_name_of_the_host_not_its_address(
    certificate: Path, tmp_path: Path, host: str, trusted: bool
) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate)) if trusted else None
    with serving(served) as server:
        server.answers["/mug.png"] = body(PNG)

        async def resolve(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        url = f"https://{host}:{server.port}/mug.png"
        if (host, trusted) == ("shop.example", True):
            assert await fetched(url, tmp_path / "got", allowed=host, resolve=resolve, tls=trusting) == PNG
        else:
            error = await refusal(url, tmp_path / "got", allowed=host, resolve=resolve, tls=trusting)
            assert type(error) is InvalidInput
            assert error.message.startswith(f"the certificate of {host} is not valid")
            assert server.asked == []


def no_http(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-x\r\n")


def chunk_of(length: bytes) -> Answer:
    """Answer with one chunk of this length, and with more than may be read."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(length + b"\r\n")
        for _ in range(100):
            handler.wfile.write(PNG.ljust(LIMITS.max_bytes, b"0"))

    return answer


ANSWERS: list[tuple[str, Answer, type[WorkerError], str]] = [
    ("404", body(b"", 404), InputMissing, "127.0.0.1 does not have it (404)"),
    ("403", body(b"", 403), InputMissing, "a signed URL may have expired"),
    ("503", body(b"", 503), StorageError, "could not send it at the moment (503)"),
    ("429", body(b"", 429), StorageError, "could not send it at the moment (429)"),
    ("204", body(b"", 204), InvalidInput, "answers with status 204 instead of a file"),
    ("206", body(PNG, 206), InvalidInput, "answers with status 206 instead of a file"),
    ("redirect to nowhere", body(b"", 302), InvalidInput, "answers with status 302 instead of a file"),
    ("empty", body(b""), InvalidInput, "is empty"),
    ("HTML", body(b"<!DOCTYPE html><html>no", Content_Type="image/png"), InvalidInput, "a web page, not a picture"),
    ("HTML with a comment", body(b"\n<!-- shop -->\n<html><body><svg >"), InvalidInput, "a web page, not a picture"),
    ("SVG", body(b'<?xml version="1.0"?><svg xmlns="x">'), InvalidInput, "an SVG drawing"),
    ("JSON", body(b'{"error": "gone"}', Content_Type="image/png"), InvalidInput, "is not a picture (JPEG, PNG"),
    ("a film", body(b"\0\0\0\x18ftypmp42" + b"0" * 100), InvalidInput, "is not a picture (JPEG, PNG"),
    ("too large, announced", body(b"", Content_Length="200000000"), InvalidInput, "too large (200 MB, at most 0)"),
    ("too large, endless", endless, InvalidInput, "it is too large (more than 0 MB)"),
    ("a chunk without end", chunk_of(b"-1"), StorageError, "does not speak HTTP"),
    ("a chunk of a negative length", chunk_of(b"-5"), StorageError, "does not speak HTTP"),
    ("a chunk without a length", chunk_of(b"x"), StorageError, "does not speak HTTP"),
    ("cut off", body(PNG, Content_Length=str(len(PNG) + 1)), StorageError, "ended the connection"),
    ("compressed", body(PNG, Content_Encoding="gzip"), InvalidInput, "sends it compressed, which was not asked for"),
    ("a loop", redirect("/x"), InvalidInput, "127.0.0.1 redirects more than 5 times"),
    ("a redirect to a file", redirect("file:///etc/passwd"), InvalidInput, "must begin with https:// and a host"),
    ("a redirect that cannot be read", redirect("https://[bad"), InvalidInput, "a URL that cannot be read"),
    ("no HTTP", no_http, StorageError, "does not speak HTTP"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "expected"), [each[1:] for each in ANSWERS], ids=[each[0] for each in ANSWERS]
)
async def test_what_a_server_may_answer_instead_of_a_picture(
    server: Server, tmp_path: Path, answer: Answer, kind: type[WorkerError], expected: str
) -> None:
    server.answers["/x"] = answer
    with capture_logs() as logs:
        error = await refusal(server.url(f"/x?{SECRET}"), tmp_path / "got", allowed=server.host)
    assert type(error) is kind
    assert expected in error.message
    assert SECRET not in f"{error.message}{error!r}{logs}"


URLS = [
    ("http://shop.example/mug.png", "shop.example must be asked with https, not http"),
    ("ftp://shop.example/mug.png", "must begin with https:// and a host"),
    ("file:///etc/passwd", "must begin with https:// and a host"),
    ("data:image/png;base64,AAAA", "must begin with https:// and a host"),
    ("mug.png", "must begin with https:// and a host"),
    ("https://", "must begin with https:// and a host"),
    ("https://user:secret@shop.example/", "the URL for shop.example must not contain a user or a password"),
    ("https://shop.example:99999/", "the URL cannot be read"),
    ("https://shop..example/", "the URL cannot be read"),
    ("https://shop.example/a b", "one that a URL cannot have"),
    ("https://shop.example/\r\nHost: inside", "one that a URL cannot have"),
    (f"https://shop.example/{'a' * 2000}", "more than 2000 characters"),
]


@pytest.mark.parametrize(("url", "expected"), URLS, ids=[expected[:30] + url[:12] for url, expected in URLS])
async def test_a_url_that_may_not_be_used_is_never_looked_up(url: str, expected: str, tmp_path: Path) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise AssertionError("looked up")

    error = await refusal(url, tmp_path / "got", resolve=resolve)
    assert type(error) is InvalidInput
    assert expected in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("number", "kind"), [(socket.EAI_NONAME, InputMissing), (socket.EAI_AGAIN, StorageError)], ids=["unknown", "later"]
)
async def test_a_name_that_cannot_be_looked_up(number: int, kind: type[WorkerError], tmp_path: Path) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(number, "no")

    assert type(await refusal("https://shop.example/", tmp_path / "got", resolve=resolve)) is kind


async def test_a_port_may_be_all_that_is_allowed_of_a_host(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = body(PNG)
    error = await refusal(server.url("/x"), tmp_path / "got", allowed="127.0.0.1:1")
    assert "must be asked with https" in error.message


def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Send a byte again and again, so that no single wait is long."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(PNG)
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.01)


def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(1)


@pytest.mark.parametrize("answer", [dripping, silent], ids=["a byte at a time", "nothing"])
async def test_the_time_of_the_whole_is_limited(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.answers["/x"] = answer
    began = time.monotonic()
    error = await refusal(
        server.url("/x"), tmp_path / "got", allowed=server.host, limits=Limits(max_bytes=10**9, seconds=0.3)
    )
    assert type(error) is StorageError
    assert error.message == "127.0.0.1 did not send it within 0.3 s"
    assert time.monotonic() - began < 0.9


async def test_nothing_is_written_after_a_cancellation(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = endless
    path = tmp_path / "got"
    begun = asyncio.Event()

    def check(first_bytes: bytes) -> None:
        loop.call_soon_threadsafe(begun.set)

    loop = asyncio.get_running_loop()
    fetching = asyncio.create_task(
        Fetcher([server.host]).fetch(server.url("/x"), path, Limits(max_bytes=10**12, seconds=60), check)
    )
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    size = path.stat().st_size
    await asyncio.sleep(0.05)
    assert path.stat().st_size == size


async def test_the_next_address_is_tried_if_the_first_accepts_no_connection(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = body(PNG)

    async def resolve(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    url = f"http://shop.example:{server.port}/x"
    assert await fetched(url, tmp_path / "got", allowed="shop.example", resolve=resolve) == PNG

"""Guarded outgoing requests, for every kind that accepts URLs.

A URL comes from an app's user, and the request from inside the operator's network. So only https is used, each name is
resolved once, and the connection is made to an address of that answer, after all of them were found to be public: a
name that points elsewhere a moment later changes nothing. TLS checks the host's name. A redirect is a new URL, with the
same checks. Size, time and redirects are limited, and the first bytes decide whether the rest is read.

The query of a URL may be a signature that gives access: errors name the host alone, and nothing is logged.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from worker.errors import InputMissing, InvalidInput, StorageError

MAX_URL_LENGTH = 2000
CONNECT_TIMEOUT_S = 5.0
"""For each address of a host."""
MAX_ADDRESSES = 4
"""Of a host, that are tried."""
CHUNK_BYTES = 2**16
HEADERS = {"User-Agent": "Likeness", "Accept-Encoding": "identity"}

_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORT = {"http": 80, "https": 443}
_UNICAST = ipaddress.IPv6Network("2000::/3")
_TUNNELS = (ipaddress.IPv6Network("2001::/23"), ipaddress.IPv6Network("2002::/16"))
"""Teredo and others for protocols, 6to4: what is behind them cannot be told."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as a network without IPv4 reaches them (RFC 6052)."""
_PLATFORM = (ipaddress.IPv4Network("168.63.129.16/32"), ipaddress.IPv4Network("192.0.0.0/24"))
"""What clouds answer inside their machines: Azure's public address; IETF's for protocols, which Oracle's uses."""

Address = str
"""An IP address in numbers."""
Resolver = Callable[[str, int], Awaitable[list[Address]]]
"""From host and port to the addresses, in the order in which to try them. Raises OSError."""
Check = Callable[[bytes], str | None]
"""From the first bytes of a file to why it is not wanted, to follow "is"; None if it is."""
CheckUrl = Callable[[str], Awaitable[None]]
"""Raises InvalidInput for a URL that a server redirects to, and that may not be used."""


@dataclass(frozen=True)
class Limits:
    """What one request may take, redirects included."""

    max_bytes: int
    seconds: float = 30.0
    redirects: int = 5


@dataclass(frozen=True)
class _Target:
    """A URL whose scheme may be used."""

    scheme: str
    host: str
    port: int
    path: str
    """Path and query, as they are sent."""
    is_private: bool
    """The operator allows this host to be private, and to be asked without TLS."""


class Fetcher:
    """Downloads what users' URLs name."""

    def __init__(
        self,
        private_hosts: Collection[str] = (),
        *,
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`private_hosts` may have any address, and http: HOST, or HOST:PORT for that port alone."""
        self._private_hosts = {host.lower() for host in private_hosts}
        self._resolve = resolve or _resolve
        self._tls = tls or ssl.create_default_context()

    async def fetch(
        self, url: str, path: Path, limits: Limits, check: Check, check_redirect: CheckUrl | None = None
    ) -> None:
        """Write what the URL names to a new file. Errors name the host, and never the rest of the URL.

        Raises InvalidInput for a URL or a content that is refused, InputMissing where there is nothing, StorageError
        where another try may succeed.
        """
        try:
            async with asyncio.timeout(limits.seconds):
                for _ in range(limits.redirects + 1):
                    target = self._parse(url)
                    redirect = await self._request(target, path, limits, check)
                    if redirect is None:
                        return
                    url = _join(url, redirect, target.host)
                    if check_redirect is not None:
                        await check_redirect(url)
        except TimeoutError:
            raise StorageError(f"{target.host} did not send it within {limits.seconds:g} s") from None
        raise InvalidInput(f"{target.host} redirects more than {limits.redirects} times")

    def _parse(self, url: str) -> _Target:
        """Raise InvalidInput for a URL that may not be used; its text is not repeated."""
        if len(url) > MAX_URL_LENGTH or any(letter.isspace() or not letter.isprintable() for letter in url):
            raise InvalidInput(f"the URL has more than {MAX_URL_LENGTH} characters, or one that a URL cannot have")
        try:
            parts = urlsplit(url)
            host = _in_ascii(parts.hostname or "")
            port = parts.port or _DEFAULT_PORT.get(parts.scheme, 0)
        except ValueError:  # of urlsplit, of a port, of a host's name
            raise InvalidInput("the URL cannot be read") from None
        if not host or parts.scheme not in _DEFAULT_PORT:
            raise InvalidInput("the URL must begin with https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise InvalidInput(f"the URL for {host} must not contain a user or a password")
        is_private = host in self._private_hosts or f"{host}:{port}" in self._private_hosts
        if parts.scheme != "https" and not is_private:
            raise InvalidInput(f"{host} must be asked with https, not http")
        sent = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            sent += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        return _Target(parts.scheme, host, port, sent, is_private)

    async def _request(self, target: _Target, path: Path, limits: Limits, check: Check) -> str | None:
        """Make one request: write the file and return None, or return where the server redirects."""
        connection = await _connect(target, await self._addresses(target))
        connection.settimeout(limits.seconds)  # for a wait that `abort` comes too early to end
        request = _Request(connection, target, self._tls)
        running = asyncio.ensure_future(asyncio.to_thread(request.run, path, limits, check))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            request.abort()
            await asyncio.gather(running, return_exceptions=True)  # so that nothing is written after the job's end
            raise

    async def _addresses(self, target: _Target) -> list[Address]:
        """Resolve a host, once. Raises InvalidInput unless all of its addresses are public."""
        try:
            found = await self._resolve(target.host, target.port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise StorageError(f"the name {target.host} cannot be looked up at the moment") from error
            raise InputMissing(f"no host has the name {target.host}") from error
        if not target.is_private and not all(map(is_public, found)):
            raise InvalidInput(f"{target.host} is not a public host")
        return found[:MAX_ADDRESSES]


class _Request:
    """One request on a connection that is open, in a thread."""

    def __init__(self, connection: socket.socket, target: _Target, tls: ssl.SSLContext) -> None:
        self._socket = connection
        self._target = target
        self._tls = tls

    def abort(self) -> None:
        """End the request from another thread: whatever it waits for fails."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def run(self, path: Path, limits: Limits, check: Check) -> str | None:
        """Write the file and return None, or return where the server redirects."""
        host = self._target.host
        try:
            with closing(self._client()) as client:
                client.request("GET", self._target.path, headers=HEADERS)
                response = client.getresponse()
                location = response.getheader("Location")
                if response.status in _REDIRECTS and location:
                    return location
                _check_status(response.status, host)
                _save(response, path, limits, check, host)
                return None
        except ssl.SSLCertVerificationError as error:
            raise InvalidInput(f"the certificate of {host} is not valid: {error.verify_message}") from error
        except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:  # not of the disk
            raise StorageError(f"{host} ended the connection, or does not speak HTTP") from error

    def _client(self) -> http.client.HTTPConnection:
        target = self._target
        if target.scheme == "http":
            client = http.client.HTTPConnection(target.host, target.port)
        else:
            client = http.client.HTTPSConnection(target.host, target.port, context=self._tls)
            self._socket = self._tls.wrap_socket(
                self._socket, server_hostname=target.host, do_handshake_on_connect=False
            )
            self._socket.do_handshake()
        client.sock = self._socket
        client.response_class = _Response
        return client


class _Reader(io.BufferedReader):
    """Reads no more than it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if (
            size is None or size < 0
        ):  # http.client passes on the length of a chunk as the server wrote it, with its sign
            raise http.client.HTTPException("a length is negative")
        return super().read(size)


class _Response(http.client.HTTPResponse):
    """A response whose body is never read to its end at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = _Reader(self.fp.detach())


def is_public(address: Address) -> bool:
    """Return True for an address of the public internet, also as a network without IPv4 writes it."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        else:
            return ip in _UNICAST and ip.is_global and not any(ip in tunnel for tunnel in _TUNNELS)
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _PLATFORM)


def _in_ascii(host: str) -> str:
    """Return a host as it is looked up. Raises UnicodeError, a ValueError."""
    return host if ":" in host else host.encode("idna").decode()


async def _resolve(host: str, port: int) -> list[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def _connect(target: _Target, addresses: list[Address]) -> socket.socket:
    """Return a connection to the first address that accepts one. Raises StorageError."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, (address, target.port))
        except OSError:  # a timeout too
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise StorageError(f"{target.host} does not accept a connection")


def _join(url: str, location: str, host: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise InvalidInput(f"{host} redirects to a URL that cannot be read") from None


def _check_status(status: int, host: str) -> None:
    """Raise for every answer but a whole file."""
    if status == http.client.OK:
        return
    if status in (404, 410):
        raise InputMissing(f"{host} does not have it ({status})")
    if status in (401, 403):
        raise InputMissing(f"{host} refuses to send it ({status}); a signed URL may have expired")
    if status in (408, 425, 429) or status >= 500:
        raise StorageError(f"{host} could not send it at the moment ({status})")
    raise InvalidInput(f"{host} answers with status {status} instead of a file")


def _save(response: http.client.HTTPResponse, path: Path, limits: Limits, check: Check, host: str) -> None:
    """Write the body of a response. Raises InvalidInput for one that is too large or not wanted."""
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise InvalidInput(f"{host} sends it compressed, which was not asked for")
    announced = response.length  # None if the server does not say
    if announced is not None and announced > limits.max_bytes:
        raise InvalidInput(f"it is too large ({announced / 1e6:.0f} MB, at most {limits.max_bytes / 1e6:.0f})")
    received = 0
    with path.open("xb") as file:
        while chunk := response.read(CHUNK_BYTES):
            refused = check(chunk) if received == 0 else None
            if refused is not None:
                raise InvalidInput(f"what {host} sends is {refused}")
            received += len(chunk)
            if received > limits.max_bytes:
                raise InvalidInput(f"it is too large (more than {limits.max_bytes / 1e6:.0f} MB)")
            file.write(chunk)
    if received == 0:
        raise InvalidInput(f"what {host} sends is empty")
    if announced is not None and received < announced:
        raise StorageError(f"{host} ended the connection in the middle")

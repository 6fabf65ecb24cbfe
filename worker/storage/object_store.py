"""The object store: any server that speaks S3, behind a few async methods.

boto3 does the protocol and is imported with the first request, so that importing this module costs nothing.
Requests run in threads of the store's own; large files go in parallel parts, both ways.

What differs between servers is settled here: addresses are path-style, signatures are v4, checksums are sent
only where the protocol demands one, and errors are judged as `storage_errors` says.

Raises `InputMissing` for an object that is not there, `InvalidInput` for a key that may not be used, and
`StorageError` for all else. Messages name bucket and key, never an address, a credential or a signature.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from worker.errors import InputMissing, InvalidInput, StorageError, WorkerError
from worker.storage.errors import explain, failures, found, plain_code, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef
    from s3transfer.futures import TransferFuture
    from s3transfer.manager import TransferManager

T = TypeVar("T")

# A server that takes a connection and then says nothing is given up after this long, and asked again.
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
ATTEMPTS = 4
# Every request that moves no file ends within this time, retries included.
CALL_DEADLINE_S = 120.0
# What a stopped transfer gets to close its files before its caller goes on.
UNWIND_S = 1.0
PART_BYTES = 8 * 1024 * 1024
MAX_KEYS_A_DELETE = 1000  # DeleteObjects takes no more


@dataclass(frozen=True)
class StoreConfig:
    """Where the store is and who we are there. The secrets stay out of `repr`."""

    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ObjectInfo:
    """An object as the store describes it. `size` is in bytes."""

    key: str
    size: int
    etag: str
    last_modified: datetime


def check_key(key: str) -> str:
    """Return `key` if every server takes it as it stands, else raise InvalidInput.

    Refused: path traversal, empty segments, control and non-ASCII characters (Supabase refuses those too),
    backslashes and more than 1,024 bytes. Keys also become file names on a pod: hence the traversal.
    """
    if not key or len(key) > 1024:
        raise InvalidInput("a storage key must have between 1 and 1024 characters")
    if not re.fullmatch(r"[\x20-\x7e]+", key) or "\\" in key:
        raise InvalidInput(f"the storage key {key!a} has characters that a key may not have")
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise InvalidInput(f"the storage key {key!r} has an empty, '.' or '..' segment")
    return key


class ObjectStore:
    """One store, for all buckets. Safe to share between tasks; `close()` it at the end."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="storage")
        self._opening = threading.Lock()
        self._client: S3Client | None = None
        self._transfers: TransferManager | None = None

    async def ensure_bucket(self, bucket: str) -> bool:
        """Make a private bucket. True if it was made, False if it was there."""

        def ensure(s3: S3Client) -> bool:
            if found(s3.head_bucket, Bucket=bucket) is not None:
                return False
            try:
                s3.create_bucket(Bucket=bucket)
            except s3.exceptions.ClientError as error:
                if status_of(error) == 409:  # somebody else was faster
                    return False
                raise
            return True

        return await self._call(f"making bucket {bucket}", ensure)

    async def require_bucket(self, bucket: str) -> None:
        """Raises StorageError unless the bucket is there and these keys may look into it."""
        there = await self._call(
            f"looking up bucket {bucket}", lambda s3: found(s3.head_bucket, Bucket=bucket) is not None
        )
        if not there:
            raise StorageError(f"there is no bucket {bucket}: `worker storage init` makes it")

    async def is_open_to_all(self, bucket: str, key: str, content: bytes) -> bool:
        """Whether anybody gets this object, whose content is `content`, without keys."""
        check_key(key)
        addresses = _addresses_without_keys(self._config.endpoint_url, f"{bucket}/{quote(key)}")
        doing = f"asking for {bucket}/{key} without keys"
        return await self._call(doing, lambda _: any(_get(address) == content for address in addresses))

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        """Describe an object; None if it is not there."""
        check_key(key)
        return await self._call(f"looking up {bucket}/{key}", lambda s3: _head(s3, bucket, key))

    async def read(self, bucket: str, key: str) -> bytes:
        """The content of a small object."""
        check_key(key)
        content = await self._call(f"reading {bucket}/{key}", lambda s3: _read(s3, bucket, key))
        if content is None:
            raise await self._missing(bucket, key)
        return content

    async def list(self, bucket: str, prefix: str = "") -> list[ObjectInfo]:
        """All objects whose key starts with `prefix`, in the order of their keys."""

        def read(s3: S3Client) -> list[ObjectInfo]:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [
                ObjectInfo(entry["Key"], entry["Size"], entry.get("ETag", "").strip('"'), entry["LastModified"])
                for page in pages
                for entry in page.get("Contents", [])
            ]

        return await self._call(f"listing {bucket}/{prefix}", read)

    async def download(self, bucket: str, key: str, path: Path) -> None:
        """Stream an object to `path`, large ones in parallel ranges.

        The file appears under its name only when it is whole; a body that breaks off is asked for again. No
        deadline (a base model may take an hour), but a connection that goes quiet is given up.
        """
        check_key(key)
        doing = f"downloading {bucket}/{key}"
        await self._call(doing, lambda _: path.parent.mkdir(parents=True, exist_ok=True))
        ended = _TransferWaiter()
        running = self._open()[1].download(bucket, key, str(path), subscribers=[ended])  # type: ignore[list-item]
        try:
            await ended.of(running)
        except failures() as error:
            status = status_of(error)
            if status == 404:
                raise await self._missing(bucket, key) from error
            if status != 416:
                raise explain(error, doing) from error
            await self._call(doing, lambda _: path.write_bytes(b""))  # an empty object has no first range

    async def upload(
        self,
        bucket: str,
        key: str,
        path: Path,
        content_type: str,
        deadline_s: float = 300.0,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Stream a file to the store, large ones in parallel parts; StorageError after `deadline_s`.

        `on_bytes` hears, in threads, how many more bytes went out; fewer than none when a part is sent again.

        After an error the object may still appear (the last request may have arrived), so its key must be one
        that somebody is going to delete.
        """
        check_key(key)
        doing = f"uploading {bucket}/{key}"
        try:
            async with asyncio.timeout(deadline_s):
                await self._call(doing, lambda _: None)  # opens the client, in a thread
                ended = _TransferWaiter(on_bytes)
                running = self._open()[1].upload(
                    str(path),
                    bucket,
                    key,
                    extra_args={"ContentType": content_type},
                    subscribers=[ended],  # type: ignore[list-item]
                )
                await ended.of(running)
        except TimeoutError as error:
            raise StorageError(f"{doing} failed: not done within {deadline_s:g} s") from error
        except failures() as error:
            if status_of(error) == 413:
                raise InvalidInput(f"{key.rsplit('/', 1)[-1]} is larger than the bucket {bucket} allows") from error
            raise explain(error, doing) from error

    async def copy(self, bucket: str, source: str, target: str) -> None:
        """Copy an object inside a bucket, on the server's side (up to 5 GB)."""
        check_key(source)
        check_key(target)

        def copy(s3: S3Client) -> bool:
            origin = {"Bucket": bucket, "Key": source}
            return found(s3.copy_object, Bucket=bucket, Key=target, CopySource=origin) is not None

        if not await self._call(f"copying {bucket}/{source}", copy):
            raise await self._missing(bucket, source)

    async def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there count as deleted.

        Keys are taken as they stand: whatever an app managed to store must be possible to erase.
        """
        wanted = list(keys)

        def delete(s3: S3Client) -> None:
            for start in range(0, len(wanted), MAX_KEYS_A_DELETE):
                _delete_batch(s3, bucket, wanted[start : start + MAX_KEYS_A_DELETE])

        if wanted:
            await self._call(f"deleting {len(wanted)} objects of {bucket}", delete)

    async def abort_uploads(self, bucket: str, prefix: str, older_than: timedelta) -> int:
        """Drop the parts of unfinished multipart uploads under `prefix`; returns how many uploads.

        A killed process leaves its parts behind, where no listing shows them and the bill does.
        """
        before = datetime.now(UTC) - older_than

        def abort(s3: S3Client) -> int:
            aborted = 0
            pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                # The prefix is checked again: not every server minds it here.
                if upload["Key"].startswith(prefix) and upload["Initiated"] <= before:
                    which = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    aborted += found(s3.abort_multipart_upload, **which) is not None
            return aborted

        return await self._call(f"dropping unfinished uploads of {bucket}/{prefix}", abort)

    async def close(self) -> None:
        """Stop running transfers and let go of the connections. A server that hangs is not waited for.

        Its threads are: the interpreter joins them when it ends, so a hung server can hold that up for
        READ_TIMEOUT_S.
        """
        if self._client is not None and self._transfers is not None:
            stop = partial(self._transfers.shutdown, cancel=True)
            stopping = asyncio.get_running_loop().run_in_executor(self._threads, stop)
            await asyncio.wait([stopping], timeout=UNWIND_S)
            self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _missing(self, bucket: str, key: str) -> WorkerError:
        """Why an object was not found: it, or its whole bucket (404 alone does not tell)."""
        try:
            await self.require_bucket(bucket)
        except StorageError as error:
            return error
        return InputMissing(f"{bucket}/{key} is not in storage")

    async def _call(self, doing: str, work: Callable[[S3Client], T]) -> T:
        """Run `work` in a thread, within CALL_DEADLINE_S, its failures told as StorageError."""
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(self._threads, lambda: work(self._open()[0]))
            return await asyncio.wait_for(running, CALL_DEADLINE_S)
        except TimeoutError as error:
            raise StorageError(f"{doing} failed: no answer within {CALL_DEADLINE_S:g} s") from error
        except failures() as error:
            raise explain(error, doing) from error

    def _open(self) -> tuple[S3Client, TransferManager]:
        """The client and its transfers. First called by `_call`, in a thread: importing boto3 takes time."""
        with self._opening:
            if self._client is None or self._transfers is None:
                self._client, self._transfers = _connect(self._config)
            return self._client, self._transfers


class _TransferWaiter:
    """Subscribes to a transfer, which runs in threads, to wait for its end in the event loop."""

    def __init__(self, on_bytes: Callable[[int], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._on_bytes = on_bytes

    def on_progress(self, future: TransferFuture, bytes_transferred: int, **_: object) -> None:
        if self._on_bytes is not None:
            self._on_bytes(bytes_transferred)

    def on_done(self, future: TransferFuture, **_: object) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def of(self, running: TransferFuture) -> None:
        """Wait for the transfer and raise what it raised; stop it when the caller is cancelled."""
        try:
            await self._event.wait()
        except asyncio.CancelledError:
            # A request on the wire ends with its next read or write, and its temporary file with it. Waited
            # for, because the caller may be about to remove the folder.
            running.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(UNWIND_S):
                    await self._event.wait()
            raise
        running.result()


def _connect(config: StoreConfig) -> tuple[S3Client, TransferManager]:
    import boto3
    from botocore.config import Config
    from s3transfer.manager import TransferConfig, TransferManager

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=config.region,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key,
        aws_session_token=config.session_token,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=32,
        ),
    )
    client.meta.events.register("before-sign.s3.DeleteObjects", _patch_delete_objects_headers)
    parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
    return client, TransferManager(client, parts)


def _patch_delete_objects_headers(request: Any, **_: object) -> None:
    """Send DeleteObjects as it was sent for years, before it is signed.

    Supabase refuses it without a Content-Type. MinIO wants Content-MD5, and Backblaze refuses the CRC32
    headers that boto3 (from 1.36 on) sends instead.
    """
    for name in ("Content-Type", "Content-MD5", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"):
        del request.headers[name]
    digest = hashlib.md5(request.data, usedforsecurity=False).digest()
    request.headers["Content-Type"] = "application/xml"
    request.headers["Content-MD5"] = base64.b64encode(digest).decode("ascii")


def _addresses_without_keys(endpoint_url: str, path: str) -> list[str]:
    """Where a public object would be: by S3's own rule, and by that of Supabase's public buckets."""
    addresses = [f"{endpoint_url}/{path}"]
    if endpoint_url.endswith("/storage/v1/s3"):
        addresses.append(f"{endpoint_url.removesuffix('/s3')}/object/public/{path}")
    return addresses


def _get(address: str) -> bytes | None:
    """The content at an address; None when the server gives none."""
    from botocore.awsrequest import AWSRequest
    from botocore.httpsession import URLLib3Session

    answer = URLLib3Session(timeout=CONNECT_TIMEOUT_S).send(AWSRequest("GET", address).prepare())
    return answer.content if answer.status_code == 200 else None


def _head(s3: S3Client, bucket: str, key: str) -> ObjectInfo | None:
    answer = found(s3.head_object, Bucket=bucket, Key=key)
    if answer is None:
        return None
    return ObjectInfo(key, answer["ContentLength"], answer.get("ETag", "").strip('"'), answer["LastModified"])


def _read(s3: S3Client, bucket: str, key: str) -> bytes | None:
    answer = found(s3.get_object, Bucket=bucket, Key=key)
    return None if answer is None else answer["Body"].read()


def _delete_batch(s3: S3Client, bucket: str, keys: list[str]) -> None:
    objects: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    # Older Supabase servers report an object that is not there as denied.
    refused = [entry for entry in answer.get("Errors", []) if _head(s3, bucket, entry["Key"]) is not None]
    if refused:
        code = plain_code(refused[0].get("Code"))
        raise StorageError(f"{len(refused)} objects of {bucket} could not be deleted ({code})")

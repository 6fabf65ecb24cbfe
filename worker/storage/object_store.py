"""The object store: any server that speaks S3, behind a few async methods.

boto3 is imported with the first request, so that importing this module is cheap. Requests run in threads of the store's
own; large files are uploaded and downloaded in parallel parts.

Differences between servers are handled here and in `worker.storage.s3.client`; `worker.storage.errors` classifies
failures.

Raises `InputMissing` for an object that does not exist, `InvalidInput` for a key that may not be used, and
`StorageError` for everything else. Messages name bucket and key, never a URL, a credential or a signature.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import quote

from worker.errors import InputMissing, InvalidInput, StorageError, WorkerError
from worker.storage.errors import (
    UnreadableResponse,
    none_if_not_found,
    request_errors,
    safe_error_code,
    status_of,
    to_storage_error,
)
from worker.storage.s3.client import CONNECT_TIMEOUT_S, DEFAULT_REGION, StoreConfig, create_client, plain_copy_source
from worker.storage.s3.put import put_object
from worker.storage.s3.transfers import UNWIND_S, TransferWaiter

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef
    from s3transfer.manager import TransferManager

T = TypeVar("T")

CALL_DEADLINE_S = 120.0
"""Every request that transfers no file ends within this time, retries included."""
MAX_KEYS_PER_DELETE = 1000
"""The limit of DeleteObjects."""


NewBucket = Literal["existed", "created", "created without a region"]
"""What `ensure_bucket` did. Servers without regions of their own refuse a bucket that names one."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object's metadata. `size` is in bytes; `etag` is empty if the server does not tell it."""

    key: str
    size: int
    etag: str


def check_key(key: str) -> str:
    """Return `key` if every server accepts it unchanged, else raise InvalidInput.

    Refuses path traversal, because keys also become file names on a pod; empty segments, control and non-ASCII
    characters (which Supabase refuses too), backslashes, and more than 1,024 bytes.
    """
    if not key or len(key) > 1024:
        raise InvalidInput(f"a storage key must have between 1 and 1024 characters, not {len(key)}")
    if not re.fullmatch(r"[\x20-\x7e]+", key) or "\\" in key:
        raise InvalidInput(f"the storage key {key!a} must be printable ASCII without backslashes")
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise InvalidInput(f"the storage key {key!r} must not have an empty, '.' or '..' segment")
    return key


class ObjectStore:
    """A client for all buckets of one store. Safe to share between tasks; call `close()` at the end."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="storage")
        self._opening = threading.Lock()
        self._client: S3Client | None = None
        self._transfers: TransferManager | None = None

    async def ensure_bucket(self, bucket: str) -> NewBucket:
        """Create a private bucket in the region of the settings, unless it exists. Return what was done."""

        def ensure(s3: S3Client) -> NewBucket:
            if none_if_not_found(s3.head_bucket, Bucket=bucket) is not None:
                return "existed"
            try:
                return _create_bucket(s3, bucket, self._config.region)
            except s3.exceptions.ClientError as error:
                if status_of(error) == 409:  # another process created it meanwhile
                    return "existed"
                raise

        return await self._call(f"creating bucket {bucket}", ensure)

    async def require_bucket(self, bucket: str) -> None:
        """Raise StorageError unless the bucket exists and these credentials may access it."""
        response = await self._call(
            f"looking up bucket {bucket}", lambda s3: none_if_not_found(s3.head_bucket, Bucket=bucket)
        )
        if response is None:
            raise StorageError(f"bucket {bucket} not found: create it with `worker storage init`")

    async def is_public(self, bucket: str, key: str, content: bytes) -> bool:
        """Return True if this object, which contains `content`, can be read without credentials."""
        check_key(key)
        urls = _public_urls(self._config.endpoint_url, f"{bucket}/{quote(key)}")
        action = f"reading {bucket}/{key} without credentials"
        return await self._call(action, lambda _: any(_get(url) == content for url in urls))

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        """Return an object's metadata, None if it does not exist."""
        check_key(key)
        return await self._call(f"looking up {bucket}/{key}", lambda s3: _head(s3, bucket, key))

    async def read(self, bucket: str, key: str) -> bytes:
        """Return the content of a small object."""
        check_key(key)
        content = await self._call(f"reading {bucket}/{key}", lambda s3: _read(s3, bucket, key))
        if content is None:
            raise await self._not_found_error(bucket, key)
        return content

    async def write(self, bucket: str, key: str, content: bytes, content_type: str, *, if_absent: bool = False) -> bool:
        """Write a small object. Returns False if `if_absent` and the server says that it exists; it need not know."""
        check_key(key)
        request = {"Bucket": bucket, "Key": key, "Body": content, "ContentType": content_type}
        return await self._call(f"writing {bucket}/{key}", lambda s3: put_object(s3, request, if_absent=if_absent))

    async def list(self, bucket: str, prefix: str = "") -> list[ObjectInfo]:
        """Return all objects whose key starts with `prefix`, ordered by key."""

        def read(s3: S3Client) -> list[ObjectInfo]:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            objects = []
            for page in pages:
                entries = page.get("Contents", [])
                objects += [ObjectInfo(one["Key"], one["Size"], one.get("ETag", "").strip('"')) for one in entries]
                if page.get("IsTruncated") and not page.get("NextContinuationToken"):
                    raise UnreadableResponse("the response is cut off, and does not say where to continue")
            return objects

        return await self._call(f"listing {bucket}/{prefix}", read)

    async def download(self, bucket: str, key: str, path: Path) -> None:
        """Download an object to `path`, a large one in parallel ranges.

        The file gets its name only when it is complete; an interrupted body is requested again. There is no deadline (a
        base model may take an hour), but a silent connection times out.
        """
        check_key(key)
        action = f"downloading {bucket}/{key}"
        await self._call(action, lambda _: path.parent.mkdir(parents=True, exist_ok=True))
        waiter = TransferWaiter()
        transfer = self._open()[1].download(bucket, key, str(path), subscribers=[waiter])  # type: ignore[list-item]
        try:
            await waiter.wait(transfer)
        except request_errors() as error:
            status = status_of(error)
            if status == 404:
                raise await self._not_found_error(bucket, key) from error
            if status != 416:
                raise to_storage_error(error, action, self._config.setting_prefix) from error
            await self._call(action, lambda _: path.write_bytes(b""))  # an empty object has no first range

    async def upload(
        self,
        bucket: str,
        key: str,
        path: Path,
        content_type: str,
        deadline_s: float = 300.0,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Upload a file, a large one in parallel parts. Raises StorageError after `deadline_s`.

        `on_bytes` is called in threads with the number of bytes just sent; it is negative when a part is sent again.

        After an error the object may still appear, because the last request may have reached the server: only use keys
        that a later sweep deletes.
        """
        check_key(key)
        action = f"uploading {bucket}/{key}"
        try:
            async with asyncio.timeout(deadline_s):
                await self._call(action, lambda _: None)  # creates the client, in a thread
                waiter = TransferWaiter(on_bytes)
                transfer = self._open()[1].upload(
                    str(path),
                    bucket,
                    key,
                    extra_args={"ContentType": content_type},
                    subscribers=[waiter],  # type: ignore[list-item]
                )
                await waiter.wait(transfer)
        except TimeoutError as error:
            raise StorageError(f"{action} failed: not finished within {deadline_s:g} s") from error
        except request_errors() as error:
            if status_of(error) == 413:
                name = key.rsplit("/", 1)[-1]
                raise InvalidInput(
                    f"{name} is larger than the bucket {bucket} allows: raise the bucket's upload limit"
                ) from error
            raise to_storage_error(error, action, self._config.setting_prefix) from error

    async def copy(self, bucket: str, source: str, target: str) -> None:
        """Copy an object within a bucket, on the server (up to 5 GB)."""
        check_key(source)
        check_key(target)

        if not await self._call(f"copying {bucket}/{source}", lambda s3: _copy(s3, bucket, source, target)):
            raise await self._not_found_error(bucket, source)

    async def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete objects; those that do not exist count as deleted.

        Keys are not checked: it must be possible to erase everything that an app managed to store.
        """
        all_keys = list(keys)

        def delete(s3: S3Client) -> None:
            for start in range(0, len(all_keys), MAX_KEYS_PER_DELETE):
                _delete_batch(s3, bucket, all_keys[start : start + MAX_KEYS_PER_DELETE])

        if all_keys:
            await self._call(f"deleting {len(all_keys)} objects of {bucket}", delete)

    async def abort_uploads(self, bucket: str, prefix: str, older_than: timedelta) -> int:
        """Abort unfinished multipart uploads under `prefix`, which deletes their parts; return how many.

        A killed process leaves its parts behind: listings omit them, but the provider charges for them.
        """
        before = datetime.now(UTC) - older_than

        def abort(s3: S3Client) -> int:
            aborted = 0
            pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                begun = upload.get("Initiated")
                # Check the prefix again: some servers ignore it in this request.
                if upload["Key"].startswith(prefix) and begun is not None and begun <= before:
                    target = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    aborted += none_if_not_found(s3.abort_multipart_upload, **target) is not None
            return aborted

        return await self._call(f"aborting unfinished uploads of {bucket}/{prefix}", abort)

    async def close(self) -> None:
        """Cancel running transfers and close the connections, without waiting for a server that hangs.

        The interpreter joins the threads at exit, so a server that hangs can delay the exit by READ_TIMEOUT_S.
        """
        if self._client is not None and self._transfers is not None:
            shutdown = partial(self._transfers.shutdown, cancel=True)
            running = asyncio.get_running_loop().run_in_executor(self._threads, shutdown)
            await asyncio.wait([running], timeout=UNWIND_S)
            self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _not_found_error(self, bucket: str, key: str) -> WorkerError:
        """Return the error for a 404, which does not tell whether the object or its bucket does not exist."""
        try:
            await self.require_bucket(bucket)
        except StorageError as error:
            return error
        return InputMissing(f"{bucket}/{key} not found in storage")

    async def _call(self, action: str, work: Callable[[S3Client], T]) -> T:
        """Run `work` in a thread within CALL_DEADLINE_S. Raises its failures as StorageError."""
        loop = asyncio.get_running_loop()
        try:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that arrives when its future is done.
            async with asyncio.timeout(CALL_DEADLINE_S):
                return await loop.run_in_executor(self._threads, lambda: work(self._open()[0]))
        except TimeoutError as error:
            raise StorageError(f"{action} failed: no response within {CALL_DEADLINE_S:g} s") from error
        except request_errors() as error:
            raise to_storage_error(error, action, self._config.setting_prefix) from error

    def _open(self) -> tuple[S3Client, TransferManager]:
        """Return the client and its transfers. `_call` opens them first, in a thread: importing boto3 takes time."""
        with self._opening:
            if self._client is None or self._transfers is None:
                self._client, self._transfers = create_client(self._config)
            return self._client, self._transfers


def _public_urls(endpoint_url: str, path: str) -> list[str]:
    """Return the URLs that a public object would have: S3's own, and that of Supabase's public buckets."""
    urls = [f"{endpoint_url}/{path}"]
    if endpoint_url.endswith("/storage/v1/s3"):
        urls.append(f"{endpoint_url.removesuffix('/s3')}/object/public/{path}")
    return urls


def _get(url: str) -> bytes | None:
    """Return the content at a URL, None unless the server responds 200."""
    from botocore.awsrequest import AWSRequest
    from botocore.httpsession import URLLib3Session

    response = URLLib3Session(timeout=CONNECT_TIMEOUT_S).send(AWSRequest("GET", url).prepare())
    return response.content if response.status_code == 200 else None


def _create_bucket(s3: S3Client, bucket: str, region: str) -> NewBucket:
    """Create a bucket. Amazon requires the region's name outside us-east-1; some other servers refuse any."""
    if region == DEFAULT_REGION:
        s3.create_bucket(Bucket=bucket)
        return "created"
    try:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})  # type: ignore[typeddict-item]
    except s3.exceptions.ClientError as error:
        if status_of(error) not in (400, 501):
            raise
        s3.create_bucket(Bucket=bucket)
        return "created without a region"
    return "created"


def _head(s3: S3Client, bucket: str, key: str) -> ObjectInfo | None:
    response = none_if_not_found(s3.head_object, Bucket=bucket, Key=key)
    if response is None:
        return None
    size = dict(response).get("ContentLength")
    if not isinstance(size, int):
        size = _size(s3, bucket, key)
    return ObjectInfo(key, size, response.get("ETag", "").strip('"'))


def _size(s3: S3Client, bucket: str, key: str) -> int:
    """Return the size of an object where HEAD does not tell it: an empty one on Supabase, any behind some gateways."""
    try:
        response = s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except s3.exceptions.ClientError as error:
        if status_of(error) == 416:  # an empty object has no first byte
            return 0
        raise
    with response["Body"] as body:
        if response["ResponseMetadata"]["HTTPStatusCode"] == 206:
            return int(response["ContentRange"].rpartition("/")[2])
        return sum(len(piece) for piece in body.iter_chunks(1 << 20))  # the server ignores ranges


def _copy(s3: S3Client, bucket: str, source: str, target: str) -> bool:
    """Return False if the source does not exist."""
    origin = {"Bucket": bucket, "Key": source}
    try:
        if none_if_not_found(s3.copy_object, Bucket=bucket, Key=target, CopySource=origin) is not None:
            return True
    except s3.exceptions.ClientError as error:
        if status_of(error) != 400 or quote(source) == source:
            raise
    if quote(source) == source:
        return False
    with plain_copy_source():
        return none_if_not_found(s3.copy_object, Bucket=bucket, Key=target, CopySource=origin) is not None


def _read(s3: S3Client, bucket: str, key: str) -> bytes | None:
    response = none_if_not_found(s3.get_object, Bucket=bucket, Key=key)
    return None if response is None else response["Body"].read()


def _delete_batch(s3: S3Client, bucket: str, keys: list[str]) -> None:
    objects: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]
    response = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    # Older Supabase servers report an object that does not exist as denied.
    refused = [entry for entry in response.get("Errors", []) if _head(s3, bucket, entry["Key"]) is not None]
    if refused:
        code = safe_error_code(refused[0].get("Code"))
        raise StorageError(f"{len(refused)} objects of {bucket} could not be deleted ({code})")

"""The boto3 client and its transfers, and what they must be told about servers that differ from Amazon's.

boto3 and s3transfer read headers that some servers and gateways leave out, and then raise KeyError or store a file that
is too short. Here every response is made complete, or refused by name, before they read it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from worker.storage.errors import MissingHeader, UnreadableResponse

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from s3transfer.manager import TransferManager

DEFAULT_REGION = "us-east-1"
"""For servers without regions, which accept the one that every tool sends."""
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""How long a connection may be silent before the request is sent again."""
ATTEMPTS = 4
PART_BYTES = 8 * 1024 * 1024


SettingPrefix = Literal["S3", "MODELS_S3"]


@dataclass(frozen=True)
class StoreConfig:
    """The store's URL and our credentials. `repr` omits the secrets."""

    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    setting_prefix: SettingPrefix = "S3"
    """The beginning of the settings that this comes from, for errors to name."""


def create_client(config: StoreConfig) -> tuple[S3Client, TransferManager]:
    """Return a client and its transfers. Imports boto3, which takes time: call it in a thread."""
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
    events = client.meta.events
    events.register("before-sign.s3.DeleteObjects", _patch_delete_objects_headers)
    events.register("before-sign.s3.CopyObject", _send_copy_source_as_it_is)
    events.register("before-parse.s3", _drop_unread_headers)
    for operation, element in _ANSWERS.items():
        events.register(f"before-parse.s3.{operation}", partial(_require_element, element))
    events.register("before-call.s3.GetObject", _remember_range)
    events.register("after-call.s3.GetObject", _check_range)
    events.register("after-call.s3.UploadPart", _require_etag)
    parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
    return client, TransferManager(client, parts)


def _patch_delete_objects_headers(request: Any, **_: object) -> None:
    """Restore the headers that boto3 sent before 1.36, before the request is signed.

    Supabase refuses DeleteObjects without Content-Type. MinIO requires Content-MD5, and Backblaze refuses the CRC32
    headers that boto3 sends since 1.36 instead.
    """
    for name in ("Content-Type", "Content-MD5", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"):
        del request.headers[name]
    digest = hashlib.md5(request.data, usedforsecurity=False).digest()
    request.headers["Content-Type"] = "application/xml"
    request.headers["Content-MD5"] = base64.b64encode(digest).decode("ascii")


_copy_source_is_plain: ContextVar[bool] = ContextVar("copy_source_is_plain", default=False)


@contextmanager
def plain_copy_source() -> Iterator[None]:
    """Send the source of a copy without URL encoding, in this thread: Supabase does not decode it."""
    token = _copy_source_is_plain.set(True)
    try:
        yield
    finally:
        _copy_source_is_plain.reset(token)


def _send_copy_source_as_it_is(request: Any, **_: object) -> None:
    if _copy_source_is_plain.get():
        source = request.headers["x-amz-copy-source"]
        del request.headers["x-amz-copy-source"]
        request.headers["x-amz-copy-source"] = unquote(source if isinstance(source, str) else source.decode("ascii"))


_READ_HEADERS = {
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "x-amz-bucket-region",
    "x-amz-request-id",
}


def _drop_unread_headers(response_dict: dict[str, Any], event_name: str, **_: object) -> None:
    """Keep boto3 from parsing them: it raises ValueError for a date that it cannot read."""
    headers = response_dict["headers"]
    for name in [name for name in headers if name.lower() not in _READ_HEADERS]:
        del headers[name]
    if not headers.get("content-length", "0").isdecimal():
        raise MissingHeader(event_name.rpartition(".")[2], "Content-Length that is a number")


_ANSWERS = {
    "ListObjectsV2": b"ListBucketResult",
    "ListMultipartUploads": b"ListMultipartUploadsResult",
    "DeleteObjects": b"DeleteResult",
}
"""The element that the response to an operation begins with, where another one would be taken for "nothing"."""


def _require_element(element: bytes, response_dict: dict[str, Any], event_name: str, **_: object) -> None:
    """Refuse, for example, a gateway's page with status 200: for boto3 it is a bucket without objects."""
    if response_dict["status_code"] == 200 and element not in response_dict["body"][:1000]:
        operation = event_name.rpartition(".")[2]
        raise UnreadableResponse(f"the response to {operation} has no {element.decode()}: look at the gateways")


def _remember_range(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    context["likeness_range"] = params["headers"].get("Range", "")


def _check_range(parsed: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """Refuse another part of an object than was requested, and request no others where the server sent all of it."""
    status, asked = parsed["ResponseMetadata"]["HTTPStatusCode"], context["likeness_range"]
    if status == 206 and not _is_of_range(parsed.get("ContentRange", ""), asked):
        raise MissingHeader("GetObject", "Content-Range that is the range of the request, and the object's size")
    if status == 200 and asked:
        if not asked.startswith("bytes=0-"):
            raise MissingHeader("GetObject", "Content-Range")
        parsed["ContentLength"] = 0  # for s3transfer: beyond this response there is nothing to request


def _is_of_range(sent: str, asked: str) -> bool:
    """Return True if `bytes 5-9/20` is all that the object has of `bytes=5-9`; the end is open in `bytes=5-`."""
    of, range_ = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", sent), re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if of is None or range_ is None:
        return False
    (start, end, size), last = map(int, of.groups()), int(range_[2] or of[3])
    return start == int(range_[1]) and end == min(last, size - 1)


def _require_etag(parsed: dict[str, Any], **_: object) -> None:
    if parsed["ResponseMetadata"]["HTTPStatusCode"] == 200 and not parsed.get("ETag"):
        raise MissingHeader("UploadPart", "ETag")

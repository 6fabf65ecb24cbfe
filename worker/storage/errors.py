"""Translate failed requests to the object store into StorageError, without quoting the server.

The messages of botocore's exceptions contain URLs and the server's own text. Ours contain the action, the HTTP status
and at most one error code. The status decides what a failure means, because servers differ in their codes and in where
they put them: Supabase responds 404 for a missing bucket and for a missing object alike, and puts its code where boto3
does not look.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from worker.errors import StorageError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

T = TypeVar("T")
_OF_PARSERS = (LookupError, TypeError, ValueError, AttributeError)


class UnreadableResponse(Exception):
    """A response that is not what S3 sends. The message quotes nothing of it."""


class MissingHeader(UnreadableResponse):
    """A response without a header that nothing replaces."""

    def __init__(self, operation: str, header: str) -> None:
        super().__init__(f"the response to {operation} has no header {header}: look at the gateways before the server")


def none_if_not_found(request: Callable[..., T], **parameters: Any) -> T | None:
    """Send a request and return its response, or None if the server responds 404."""
    from botocore.exceptions import ClientError

    try:
        return request(**parameters)
    except ClientError as error:
        if status_of(error) == 404:
            return None
        raise


def request_errors() -> tuple[type[Exception], ...]:
    """Return all exceptions that boto3, its transfers and the disk raise, for an `except` clause.

    For a body with other elements or values than S3 sends, boto3 raises whatever its parser stumbles over. A function,
    because it imports botocore: Python evaluates the clause only once an exception was raised.
    """
    from http.client import HTTPException

    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from s3transfer.exceptions import (
        CancelledError,
        RetriesExceededError,
        S3CopyFailedError,
        S3DownloadFailedError,
        S3UploadFailedError,
        S3ValidationError,
    )
    from urllib3.exceptions import HTTPError

    return (
        BotoCoreError,
        Boto3Error,
        ClientError,
        CancelledError,
        HTTPError,
        HTTPException,
        ResponseParserError,
        RetriesExceededError,
        S3CopyFailedError,
        S3DownloadFailedError,
        S3UploadFailedError,
        S3ValidationError,
        UnreadableResponse,
        OSError,
        *_OF_PARSERS,
    )


def to_storage_error(error: BaseException, action: str, settings: str = "S3") -> StorageError:
    """Return the failure as a StorageError.

    Args:
        action: what was tried, with bucket and key.
        settings: how the names of the settings begin that name the store.
    """
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        ConnectTimeoutError,
        HTTPClientError,
        ReadTimeoutError,
    )
    from s3transfer.exceptions import CancelledError, RetriesExceededError

    if isinstance(error, RetriesExceededError):
        return to_storage_error(error.last_exception, action, settings)
    if isinstance(error, ClientError):
        reason = _describe_response(error, settings)
    elif isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        reason = "the server does not respond"
    elif isinstance(error, HTTPClientError | ConnectionError):
        reason = f"the server cannot be reached ({type(error).__name__})"
    elif isinstance(error, CancelledError):
        reason = "it was cancelled"
    elif isinstance(error, OSError):
        reason = f"error on this machine: {error.strerror or type(error).__name__}"
    elif isinstance(error, UnreadableResponse):
        reason = str(error)
    elif isinstance(error, _OF_PARSERS):
        reason = f"the response is not what S3 sends ({type(error).__name__})"
    else:
        reason = type(error).__name__
    return StorageError(f"{action} failed: {reason}")


def _describe_response(error: ClientError, settings: str) -> str:
    status, code = status_of(error), _code(error)
    keys = "the storage keys" if settings == "S3" else f"the storage keys ({settings}_*)"
    hints = {
        401: f"; check {keys}",
        403: f"; check {keys}, their permissions and the region",
        404: "; if the bucket does not exist, create it with `worker storage init`",
    }
    region = _region_of_bucket(error)
    hint = f"; the bucket is in region {region}: set {settings}_REGION" if region else hints.get(status, "")
    return f"the server responded {status} {code}".rstrip() + hint


def _region_of_bucket(error: ClientError) -> str:
    """Return the region that the server names when it refuses a request for another one, else ""."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    named = headers.get("x-amz-bucket-region", "")
    return named if status_of(error) in (301, 307, 400) and re.fullmatch(r"[a-z0-9-]{1,40}", named) else ""


def server_responded(error: StorageError) -> bool:
    """Return True if a server was reached and refused the request."""
    return response_status(error) > 0


def response_status(error: StorageError) -> int:
    """Return the HTTP status with which the server refused the request, 0 if there was no response."""
    return status_of(error.__cause__) if isinstance(error.__cause__, Exception) else 0


def status_of(error: Exception) -> int:
    """Return the HTTP status of the server's response, 0 if there was none."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    """Return the server's error code. Supabase puts it beside boto3's `Error`, which then contains an empty one."""
    response: dict[str, Any] = dict(error.response)
    return safe_error_code(response.get("Error", {}).get("Code") or response.get("Code"))


def safe_error_code(code: object) -> str:
    """Return `code` if it is a plain identifier, else "": a server's free text must not get into our messages."""
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9._]{0,63}", code) else ""

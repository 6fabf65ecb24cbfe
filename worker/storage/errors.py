"""What a failed request to the object store means, told without anything a server sent.

The texts of botocore's exceptions hold addresses and what the server said; ours hold what was being done, an
HTTP status and at most one code. The status decides, because servers differ in the codes and in where they
put them: Supabase answers 404 for a missing bucket as for a missing object, its code where boto3 never looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from worker.errors import StorageError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

T = TypeVar("T")


def found(request: Callable[..., T], **parameters: Any) -> T | None:
    """The answer to a request, or None where the server says 404."""
    from botocore.exceptions import ClientError

    try:
        return request(**parameters)
    except ClientError as error:
        if status_of(error) == 404:
            return None
        raise


def failures() -> tuple[type[Exception], ...]:
    """Everything that boto3, its transfers and the disk raise. Read only once one of them was raised."""
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import (
        CancelledError,
        RetriesExceededError,
        S3DownloadFailedError,
        S3ValidationError,
    )

    return (
        BotoCoreError,
        ClientError,
        CancelledError,
        RetriesExceededError,
        S3DownloadFailedError,
        S3ValidationError,
        OSError,
    )


def explain(error: BaseException, doing: str) -> StorageError:
    """The failure as a StorageError: `doing` says what was tried, in words that name bucket and key."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        ConnectTimeoutError,
        HTTPClientError,
        ReadTimeoutError,
    )
    from s3transfer.exceptions import CancelledError, RetriesExceededError

    if isinstance(error, RetriesExceededError):
        return explain(error.last_exception, doing)
    if isinstance(error, ClientError):
        why = _answer(error)
    elif isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        why = "the server does not answer"
    elif isinstance(error, HTTPClientError | ConnectionError):
        why = f"the server cannot be reached ({type(error).__name__})"
    elif isinstance(error, CancelledError):
        why = "it was stopped"
    elif isinstance(error, OSError):
        why = f"this machine says {error.strerror or type(error).__name__}"
    else:
        why = type(error).__name__
    return StorageError(f"{doing} failed: {why}")


def _answer(error: ClientError) -> str:
    status, code = status_of(error), _code(error)
    hints = {
        401: "; check the storage keys",
        403: "; check the storage keys, their permissions and the region",
        404: "; does the bucket exist? `worker storage init` makes it",
    }
    return f"the server answered {status} {code}".rstrip() + hints.get(status, "")


def was_answered(error: StorageError) -> bool:
    """Whether a server was reached, and refused."""
    return isinstance(error.__cause__, Exception) and status_of(error.__cause__) > 0


def status_of(error: Exception) -> int:
    """The HTTP status of a server's refusal; 0 for a failure that has none."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    """The server's word for it. Supabase's stands beside boto3's `Error`, which then holds an empty one."""
    response: dict[str, Any] = dict(error.response)
    return plain_code(response.get("Error", {}).get("Code") or response.get("Code"))


def plain_code(code: object) -> str:
    """A code a server sent, if it is one: no free text of theirs gets into our messages."""
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9._]{0,63}", code) else ""

"""PutObject, with the condition that the object does not exist, on servers that know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.storage.errors import status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXISTS = (409, 412)
"""A concurrent write, and an object that is there."""
CONDITION_UNKNOWN = (400, 501)
"""Also the status of other refusals, which the same request without the condition gets too."""


def put_object(s3: S3Client, request: dict[str, Any], *, if_absent: bool) -> bool:
    """Write an object. Returns False if `if_absent` and it exists. Servers that ignore the condition overwrite it."""
    if if_absent:
        try:
            s3.put_object(**request, IfNoneMatch="*")
        except s3.exceptions.ClientError as error:
            if status_of(error) in EXISTS:
                return False
            if status_of(error) not in CONDITION_UNKNOWN:
                raise
        else:
            return True
    s3.put_object(**request)
    return True

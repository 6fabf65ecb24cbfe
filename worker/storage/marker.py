"""The marker of a bucket: a small object that says which installation the bucket belongs to.

A copy of the database knows the same keys as the original. So before a pod deletes or overwrites an object it reads the
marker, and the database says whether it is the one that wrote it: `worker.note_markers` in sql/installation.sql.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from psycopg.types.json import Jsonb

from worker.database.pool import Database
from worker.errors import InputMissing, StorageError
from worker.storage.errors import response_status
from worker.storage.object_store import ObjectStore

MARKER_KEY = "likeness-installation.json"
MARKER_TYPE = "application/json"


async def read_marker(store: ObjectStore, bucket: str) -> dict[str, Any]:
    """Return what a bucket holds, as `worker.note_markers` expects it: id and nonce, absent, or why unreadable."""
    try:
        content = await store.read(bucket, MARKER_KEY)
    except InputMissing:
        return {"absent": True}
    except StorageError as error:
        return {"unreadable": _why_unreadable(error)}
    try:
        marker = json.loads(content)
        return {"id": str(marker["id"]), "nonce": str(marker["nonce"])}
    except (ValueError, TypeError, KeyError):
        return {"unreadable": f"{MARKER_KEY} is not a marker; delete it, then run worker storage init"}


async def read_markers(store: ObjectStore, buckets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what each bucket holds."""
    return {bucket: await read_marker(store, bucket) for bucket in buckets}


async def write_marker(store: ObjectStore, bucket: str, marker: dict[str, Any], *, first: bool = False) -> None:
    """Write the marker; with `first`, only if the bucket has none, as far as the server knows that condition."""
    content = json.dumps({"id": marker["id"], "nonce": marker["nonce"]}).encode()
    try:
        await store.write(bucket, MARKER_KEY, content, MARKER_TYPE, if_absent=first)
    except StorageError as error:
        if _type_refused(error):
            raise StorageError(
                f"bucket {bucket} does not accept {MARKER_KEY}: add {MARKER_TYPE} to its allowed_mime_types"
            ) from error
        raise


async def require_own_bucket(database: Database, store: ObjectStore, bucket: str) -> None:
    """Raise StorageError unless the database says that objects of this bucket may be overwritten and deleted now."""
    await database.call("note_markers", Jsonb({bucket: await read_marker(store, bucket)}))
    hold = await database.call("storage_hold", bucket)
    if hold is not None:
        raise StorageError(hold)


def _why_unreadable(error: StorageError) -> str:
    if response_status(error) == 403:
        return (
            "the store responded 403; S3 does so for a missing object too, without the right s3:ListBucket: give "
            "S3_ACCESS_KEY_ID s3:ListBucket and s3:GetObject on the bucket"
        )
    return error.message


def _type_refused(error: StorageError) -> bool:
    return (
        response_status(error) == 415 or re.search(r"responded \d+ \w*mime", error.message, re.IGNORECASE) is not None
    )

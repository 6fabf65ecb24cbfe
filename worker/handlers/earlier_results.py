"""Answering a request from storage: an identical one was completed before, and its objects are copied.

Copies are staged and published as every other object, under this attempt's own prefix: deleting one job's pictures
leaves the other's. The database decides whether the earlier result may be given to this job.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

import structlog

from worker import __version__
from worker.errors import InputMissing, StorageError
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease

log = structlog.get_logger()


def fingerprint(parts: dict[str, Any]) -> str:
    """Return a digest of everything that a result depends on, as JSON can hold it, and of this release."""
    return hashlib.sha256(json.dumps([__version__, parts], sort_keys=True).encode()).hexdigest()


async def reuse(digest: str, lease: Lease, context: JobContext) -> dict[str, Any] | None:
    """Return the result of an identical request with its objects copied, or None if there is none that may be used.

    `cached_from` in it is the job that it was copied from. From now on, others may be answered with this job's.
    """
    earlier = await lease.find_result(digest)
    if earlier is None:
        return None
    await lease.begin_phase("copying an earlier result")
    copies = {
        found["key"]: (found["bucket"], f"{lease.job.prefix}{PurePosixPath(found['key']).name}")
        for found in earlier["objects"]
    }
    await lease.stage(list(copies.values()))
    try:
        for key, (bucket, copy) in copies.items():
            await context.store.copy(bucket, key, copy)
    except (InputMissing, StorageError) as error:  # an app may delete objects, and not every store copies
        log.info("cache.not_copied", earlier_job=earlier["job_id"], reason=error.message)
        return None
    context.mark_computed(lease)
    replaced: dict[str, Any] = _replaced(earlier["result"], {key: copy for key, (_, copy) in copies.items()})
    return {**replaced, "cached_from": earlier["job_id"]}


def _replaced(value: Any, keys: dict[str, str]) -> Any:
    """Return a JSON value with these strings replaced, wherever they are."""
    if isinstance(value, dict):
        return {name: _replaced(part, keys) for name, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, keys) for part in value]
    return keys.get(value, value) if isinstance(value, str) else value

"""The convenience copy: `{subject_id}/lora.safetensors` is the newest version, made after its publication."""

from __future__ import annotations

from typing import Any

from worker.errors import InternalError, Interruption, JobInterrupted
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease
from worker.storage.marker import require_own_bucket


async def publish_lora(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Copy the newest LoRA of a subject within the store. The copy is deleted if consent ended meanwhile.

    The transaction holds a lock of its own for each subject, never the subject's row: a copy must not make a revocation
    wait.
    """
    if lease.job.subject is None:
        raise InternalError("a convenience copy needs a subject")
    async with context.database.transaction() as connection:
        await connection.execute("select worker.lock_lora_copy(%s, %s, %s)", [lease.kind, lease.id, lease.attempt])
        # The copy's key names no attempt: a copy of this database would overwrite and delete the same object.
        await require_own_bucket(context.database, context.store, context.bucket_models)
        copy = await _lora_to_copy(connection, lease)
        if copy["consented"] and copy["newest"]:
            await context.store.copy(context.bucket_models, copy["source"], copy["target"])
            copy = await _lora_to_copy(connection, lease)
        if not copy["consented"]:
            # Also what an earlier attempt may have copied before it died.
            await context.store.delete(context.bucket_models, [copy["target"]])
    return {"copied": copy["target"] if copy["consented"] and copy["newest"] else None}


async def _lora_to_copy(connection: Any, lease: Lease) -> dict[str, Any]:
    cursor = await connection.execute(
        "select worker.lora_to_copy(%s, %s, %s) as copy", [lease.kind, lease.id, lease.attempt]
    )
    row = await cursor.fetchone()
    if row["copy"] is None:
        raise JobInterrupted(Interruption.LEASE_LOST)
    copy: dict[str, Any] = row["copy"]
    return copy

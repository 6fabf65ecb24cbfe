"""The buckets: there, called as in the database, private, and writable; and how large a file they take."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

import psycopg

from worker.commands.checks.report import CheckSkipped, CheckWarning, Report
from worker.database.pool import Database
from worker.errors import SettingsError, StorageError
from worker.pod.preflight import BUCKETS, check_bucket, check_bucket_name
from worker.settings import Settings
from worker.storage.object_store import ObjectStore

TRIAL_PREFIX = "_doctor/"
"""No owner's, no subject's and no model's keys begin so: no policy shows it to anybody, no pod reads it."""

LARGEST_BYTES = {"bucket_uploads": 100_000_000, "bucket_models": 10_000_000_000}
"""A 16-megapixel PNG, four times enlarged by an upscaler, and some room; the largest file of FLUX.1."""
TOO_LITTLE = {
    "bucket_uploads": ("too little for large pictures", ""),
    "bucket_models": ("too little for the largest files of base models", ", or keep bases on the pods' disks"),
}
"""What a lower limit is too little for, and what else helps."""


async def check_storage(report: Report, settings: Settings, database: Database | None) -> ObjectStore | None:
    """Every bucket on its own. Returns the store; None when its settings are not there or nobody answers."""
    names = {name: f"bucket {getattr(settings, name)}" for name in BUCKETS}
    try:
        store = ObjectStore(settings.store_config)
    except SettingsError:
        report.skip("settings of the object store are missing", *names.values())
        return None
    if not any([await _check_bucket(report, settings, store, database, name) for name in BUCKETS]):
        return None
    return store


async def _check_bucket(
    report: Report, settings: Settings, store: ObjectStore, database: Database | None, name: str
) -> bool:
    bucket = getattr(settings, name)
    label = f"bucket {bucket}"
    if not await report.check(label, _found(settings, store, database, name)):
        report.skip("it cannot be reached", f"{label}, use", f"{label}, limit")
        return False
    await report.check(f"{label}, use", try_bucket(store, bucket))
    await report.check(f"{label}, limit", _limit(database, bucket, name))
    return True


async def _found(settings: Settings, store: ObjectStore, database: Database | None, name: str) -> str:
    if database is not None:
        # First, as a pod does: where the names differ, that is what is wrong, and not that there is no such bucket.
        await check_bucket_name(settings, database, name)
    await check_bucket(settings, store, name)
    if database is None:
        return "there; its name in worker.config is not checked: no database"
    return "there, and called so in worker.config"


async def try_bucket(store: ObjectStore, bucket: str) -> str:
    """Write, read and delete a small object, and ask for it without keys.

    Raises SettingsError when one of them is refused, or when anybody may read what lies here.
    """
    key, content = f"{TRIAL_PREFIX}{uuid4()}.txt", uuid4().bytes
    try:
        received, public = await _round_trip(store, bucket, key, content)
    except StorageError as error:
        raise SettingsError(
            f"a trial object cannot be written, read and deleted: {error.message}",
            "give the keys of S3_ACCESS_KEY_ID all rights on this bucket",
        ) from error
    if received != content:
        raise SettingsError("a trial object came back changed", "look at what stands between here and the store")
    if public:
        raise SettingsError(
            f"{bucket} is PUBLIC: anybody may read people's files in it, without keys",
            "make it private at once; on Supabase: Storage → the bucket → Edit → Public off",
        )
    return "a trial object was written, read and deleted; nobody reads here without keys"


async def _round_trip(store: ObjectStore, bucket: str, key: str, content: bytes) -> tuple[bytes, bool]:
    """What comes back of an object, which is deleted again, and whether it came without keys too."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="likeness-doctor-"))
    sent, received = folder / "sent", folder / "received"
    try:
        await asyncio.to_thread(sent.write_bytes, content)
        await store.upload(bucket, key, sent, "text/plain", deadline_s=15)
        try:
            await store.download(bucket, key, received)
            public = await store.is_public(bucket, key, content)
        finally:
            await store.delete(bucket, [key])
        return await asyncio.to_thread(received.read_bytes), public
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


async def _limit(database: Database | None, bucket: str, name: str) -> str:
    """Supabase keeps a limit for each bucket in its table; other servers tell none over S3."""
    look = "look at the store's own settings (Supabase: Storage → Settings has the project's limit)"
    if database is None:
        raise CheckSkipped("not checked: no usable database")
    try:
        # As JSON, because the column is Supabase's alone: a stand-in has none.
        rows = await database.fetch(
            """select (to_jsonb(bucket) ->> 'file_size_limit')::bigint as bytes,
                      to_jsonb(bucket) ? 'file_size_limit' as kept
               from storage.buckets bucket where id = %s""",
            [bucket],
        )
    except psycopg.errors.InsufficientPrivilege:
        raise CheckSkipped(
            "not checked: only the database's owner sees upload limits; run this with that URL"
        ) from None
    except psycopg.errors.UndefinedTable:
        rows = []
    if not rows or not rows[0]["kept"]:
        raise CheckSkipped("not checked: this store tells no upload limit", look)
    if rows[0]["bytes"] is None:
        return f"the bucket has no upload limit of its own; {look}"
    if rows[0]["bytes"] < LARGEST_BYTES[name]:
        what, else_ = TOO_LITTLE[name]
        raise CheckWarning(
            f"takes files up to {rows[0]['bytes'] / 1e6:.0f} MB: {what}",
            f"on Supabase: Storage → {bucket} → Edit → no file size limit{else_}; {look}",
        )
    return f"takes files up to {rows[0]['bytes'] / 1e6:.0f} MB"

"""The buckets: they exist, are named as in the database, private and writable; and their upload limits.

A bucket for base models alone need only be readable.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

from worker.commands.checks.report import CheckSkipped, CheckWarning, Report
from worker.database.pool import Database
from worker.errors import SettingsError, StorageError
from worker.pod.preflight import BUCKETS, check_bucket, check_bucket_name, check_models_bucket
from worker.settings import Settings
from worker.storage.marker import MARKER_KEY, read_marker
from worker.storage.models_store import ModelsStore
from worker.storage.object_store import ObjectStore

TRIAL_PREFIX = "_doctor/"
"""Keys of owners, subjects and models never begin so: no policy shows these objects, and no pod reads them."""


@dataclass(frozen=True)
class Contents:
    """The largest file of a bucket, and what a lower upload limit is too small for, and what else helps."""

    largest_bytes: int
    too_small_for: str
    alternative: str = ""


CONTENTS = {
    # A 16-megapixel PNG enlarged four times by an upscaler, with a margin.
    "bucket_uploads": Contents(100_000_000, "large pictures"),
    # An OBJ of the best quality that is not simplified, which is text.
    "bucket_meshes": Contents(100_000_000, "large 3D models"),
}
"""By bucket; what is in that of models depends on the settings."""
BASE_MODELS = Contents(10_000_000_000, "the largest files of base models", ", or keep base models on the pods' disks")
"""The largest file of a published base model."""
LORAS = Contents(5_000_000_000, "checkpoints of the largest LoRAs")
"""Weights of rank 128 with both moments of the optimizer, in float32."""


async def check_storage(report: Report, settings: Settings, database: Database | None) -> ObjectStore | None:
    """Check each bucket. Returns the store; None if settings are missing or no bucket can be reached."""
    names = {name: f"bucket {getattr(settings, name)}" for name in BUCKETS}
    try:
        store = ObjectStore(settings.store_config)
    except SettingsError:
        report.skip("settings of the object store are missing", *names.values())
        return None
    if not any([await _check_bucket(report, settings, store, database, name) for name in BUCKETS]):
        return None
    return store


async def check_models_store(
    report: Report, settings: Settings, database: Database | None, store: ObjectStore | None
) -> ObjectStore | None:
    """Check the bucket of MODELS_S3_*. Returns the store of base models: `store` if none of these settings is given.

    None if settings are missing or the bucket cannot be read.
    """
    if not ModelsStore(settings).is_own:
        return store
    bucket = settings.base_models_bucket
    label = f"models bucket {bucket}"
    try:
        models_store = ObjectStore(settings.models_store_config)
    except SettingsError:
        report.skip("settings of the store of base models are missing", label)
        return None
    if not await report.check(label, try_models_bucket(settings, models_store)):
        return None
    if settings.models_s3_endpoint_url is None:
        await report.check(f"{label}, limit", _limit(database, bucket, BASE_MODELS))
    return models_store


async def try_models_bucket(settings: Settings, store: ObjectStore) -> str:
    """Look for base models, as pods do; nothing is written. Raises SettingsError if the store denies it.

    Raises CheckWarning if the bucket is one of people's LoRAs.
    """
    await check_models_bucket(settings, store)
    bucket = settings.base_models_bucket
    if "id" in await read_marker(store, bucket):
        raise CheckWarning(
            f"{MARKER_KEY} says that an installation keeps people's LoRAs in it",
            "set MODELS_S3_BUCKET to a bucket for base models alone, or remove it if this is BUCKET_MODELS",
        )
    return "found; reading it is enough for pods, only `worker models push` needs the right to write and delete"


async def _check_bucket(
    report: Report, settings: Settings, store: ObjectStore, database: Database | None, name: str
) -> bool:
    bucket = getattr(settings, name)
    label = f"bucket {bucket}"
    if not await report.check(label, _find(settings, store, database, name)):
        report.skip("the bucket cannot be reached", f"{label}, use", f"{label}, limit")
        return False
    await report.check(f"{label}, use", try_bucket(store, bucket))
    await report.check(f"{label}, limit", _limit(database, bucket, _contents(settings, name)))
    return True


def _contents(settings: Settings, name: str) -> Contents:
    if name == "bucket_models":
        return LORAS if ModelsStore(settings).is_own else BASE_MODELS
    return CONTENTS[name]


async def _find(settings: Settings, store: ObjectStore, database: Database | None, name: str) -> str:
    if database is not None:
        # First, as a pod does: if the names differ, that is the problem, not the missing bucket.
        await check_bucket_name(settings, database, name)
    await check_bucket(settings, store, name)
    if database is None:
        return "found; its name in worker.config was not checked: no database"
    return "found, with the same name in worker.config"


async def try_bucket(store: ObjectStore, bucket: str) -> str:
    """Write, read and delete a small object, and try to read it without keys.

    Raises SettingsError if the store denies one of them, or if the object can be read without keys.
    """
    key, content = f"{TRIAL_PREFIX}{uuid4()}.txt", uuid4().bytes
    try:
        received, public = await _round_trip(store, bucket, key, content)
    except StorageError as error:
        raise SettingsError(
            f"writing, reading and deleting a test object failed: {error.message}",
            "give S3_ACCESS_KEY_ID full rights on this bucket",
        ) from error
    if received != content:
        raise SettingsError("a test object came back changed", "check the proxies between this machine and the store")
    if public:
        raise SettingsError(
            f"{bucket} is PUBLIC: the files in it can be read without keys",
            "make it private now; on Supabase: Storage → the bucket → Edit → Public off",
        )
    return "a test object was written, read and deleted, and could not be read without keys"


async def _round_trip(store: ObjectStore, bucket: str, key: str, content: bytes) -> tuple[bytes, bool]:
    """Return the content of an object, which is deleted again, and whether it can be read without keys."""
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


async def _limit(database: Database | None, bucket: str, contents: Contents) -> str:
    """Supabase keeps a limit for each bucket in its table; other servers do not report one over S3."""
    hint = "check the store's own settings (Supabase: the project's limit is in Storage → Settings)"
    if database is None:
        raise CheckSkipped("not checked: no usable database")
    try:
        # As JSON, because only Supabase has the column: the stub of its table does not.
        rows = await database.fetch(
            """select (to_jsonb(bucket) ->> 'file_size_limit')::bigint as bytes,
                      to_jsonb(bucket) ? 'file_size_limit' as kept
               from storage.buckets bucket where id = %s""",
            [bucket],
        )
    except psycopg.errors.InsufficientPrivilege:
        raise CheckSkipped(
            "not checked: only the database owner can read upload limits; run this with the owner's DATABASE_URL"
        ) from None
    except psycopg.errors.UndefinedTable:
        rows = []
    if not rows or not rows[0]["kept"]:
        raise CheckSkipped("not checked: this store does not report an upload limit", hint)
    if rows[0]["bytes"] is None:
        return f"the bucket has no upload limit of its own; {hint}"
    if rows[0]["bytes"] < contents.largest_bytes:
        raise CheckWarning(
            f"accepts files up to {rows[0]['bytes'] / 1e6:.0f} MB: too small for {contents.too_small_for}",
            f"on Supabase: Storage → {bucket} → Edit → no file size limit{contents.alternative}; {hint}",
        )
    return f"accepts files up to {rows[0]['bytes'] / 1e6:.0f} MB"

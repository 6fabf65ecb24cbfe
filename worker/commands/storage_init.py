"""Creates the buckets that the settings name, as private, and marks those of people's files as this installation's."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from worker.commands.checks.report import CheckWarning, Report
from worker.commands.checks.storage import try_bucket, try_models_bucket
from worker.database.pool import Database
from worker.errors import SettingsError, StorageError
from worker.pod.preflight import BUCKETS, check_bucket_name
from worker.settings import Settings
from worker.storage.errors import server_responded
from worker.storage.marker import read_marker, write_marker
from worker.storage.models_store import ModelsStore
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

UNREACHED = "correct {}_ENDPOINT_URL, or open the network to it"
BY_HAND = (
    "create it by hand, private (Supabase: Storage → New bucket), or set {}_ACCESS_KEY_ID to one that may create it"
)
AS_OWNER = 'as the database owner: DATABASE_URL="$OWNERS_URL" worker storage init; until then pods delete nothing'


async def create_buckets(settings: Settings, report: Report) -> None:
    """Create missing buckets, try and mark each. A bucket that can be read without keys fails, whoever created it."""
    store = ObjectStore(settings.store_config)
    try:
        usable = []
        for name in BUCKETS:
            bucket = getattr(settings, name)
            if await report.check(f"bucket {bucket}", _create(store, bucket, settings.store_config)):
                await report.check(f"bucket {bucket}, use", try_bucket(store, bucket))
                usable.append(name)
        for name in usable:
            await report.check(f"bucket {getattr(settings, name)}, marker", _mark(settings, store, name))
    finally:
        await store.close()
    if ModelsStore(settings).is_own:
        await _create_models_bucket(settings, report)


async def _create_models_bucket(settings: Settings, report: Report) -> None:
    """Create the bucket of MODELS_S3_* if it is missing. It gets no marker: other installations may share it."""
    config, bucket = settings.models_store_config, settings.base_models_bucket
    store = ObjectStore(config)
    try:
        if await report.check(f"models bucket {bucket}", _create(store, bucket, config)):
            await report.check(f"models bucket {bucket}, use", try_models_bucket(settings, store))
    finally:
        await store.close()


async def _create(store: ObjectStore, bucket: str, config: StoreConfig) -> str:
    region = config.region
    try:
        done = await store.ensure_bucket(bucket)
    except StorageError as error:
        hint = BY_HAND if server_responded(error) else UNREACHED
        raise SettingsError(error.message, hint.format(config.setting_prefix)) from error
    return {
        "existed": "already exists",
        "created": f"created, private, in region {region}",
        "created without a region": f"created, private; the server refused the region {region} and chose one itself",
    }[done]


async def _mark(settings: Settings, store: ObjectStore, name: str) -> str:
    """Write the first marker if the bucket has none. Raises SettingsError if it belongs to another installation."""
    bucket = getattr(settings, name)
    url = settings.database_url.get_secret_value()
    if not url:
        raise CheckWarning("not marked: DATABASE_URL is missing", AS_OWNER)
    async with Database(url, "command") as database:
        try:
            await check_bucket_name(settings, database, name)
            return await mark_bucket(database, store, bucket)
        except psycopg.errors.InsufficientPrivilege:
            raise CheckWarning("not marked: only the database owner may", AS_OWNER) from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
            raise CheckWarning(
                "not marked: the schema is missing or older", "worker migrate, then this again"
            ) from None


async def mark_bucket(database: Database, store: ObjectStore, bucket: str) -> str:
    """Write the first marker of a bucket that has none; `database` is connected as the owner. Returns what was done.

    Raises SettingsError if the bucket belongs to another installation, or the marker cannot be read or written.
    """
    try:
        marker = await database.call_once("first_marker")  # its refusal would count as one that passes
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise SettingsError(error.diag.message_primary or "this database may not mark buckets") from error
    before = await _judge(database, bucket, await read_marker(store, bucket))
    if before["state"] == "unmarked":
        await write_marker(store, bucket, marker, first=True)
    seen = await read_marker(store, bucket)
    found = await _judge(database, bucket, seen)
    if found["state"] != "ours":
        raise SettingsError(found["problem"])
    await database.call("note_markers", Jsonb({bucket: seen}))
    return f"{'is already' if before['state'] == 'ours' else 'marked as'} this installation's, {marker['id']}"


async def _judge(database: Database, bucket: str, seen: dict[str, Any]) -> dict[str, Any]:
    judged: dict[str, dict[str, Any]] = await database.call("judge_markers", Jsonb({bucket: seen}))
    return judged[bucket]

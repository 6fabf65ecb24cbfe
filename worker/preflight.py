"""What must be right before a pod starts anything."""

from __future__ import annotations

import psycopg

from worker.db import Database
from worker.errors import SettingsError, StorageError
from worker.handlers import HANDLERS
from worker.migrate import SCHEMA_MAJOR
from worker.settings import Settings
from worker.storage import ObjectStore

BUCKETS = {"bucket_uploads": "BUCKET_UPLOADS", "bucket_models": "BUCKET_MODELS"}


async def check_installation(settings: Settings, database: Database, store: ObjectStore) -> None:
    """Raises SettingsError, naming the setting with an example, when schema, kinds, buckets or store are wrong."""
    await _check_schema(database)
    config = (await database.fetch("select bucket_uploads, bucket_models from worker.config"))[0]
    for name, variable in BUCKETS.items():
        if config[name] != getattr(settings, name):
            raise SettingsError(
                f"{variable} is refused: {getattr(settings, name)!r} here, but {config[name]!r} in worker.config; "
                f"for example {variable}={config[name]}"
            )
    unknown = settings.worker_kinds - set(HANDLERS)
    if unknown:
        raise SettingsError(
            f"WORKER_KINDS is refused: there is no {', '.join(sorted(unknown))}; "
            f"for example WORKER_KINDS={','.join(sorted(HANDLERS))}"
        )
    for name, variable in BUCKETS.items():
        try:
            await store.require_bucket(getattr(settings, name))
        except StorageError as error:
            raise SettingsError(
                f"S3_ENDPOINT_URL, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY or {variable} is refused: {error.message}; "
                "for example S3_ENDPOINT_URL=https://<ref>.storage.supabase.co/storage/v1/s3"
            ) from error


async def _check_schema(database: Database) -> None:
    try:
        found = await database.fetch("select to_regprocedure('worker.schema_major()') is not null as installed")
        major = await database.call("schema_major") if found[0]["installed"] else None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SettingsError(
            "DATABASE_URL is refused: its role may not call the worker's functions; "
            "for example, as the owner: grant likeness_worker to <role>"
        ) from error
    if major is None:
        raise SettingsError(
            "DATABASE_URL is refused: this database has no Likeness schema; for example, as the owner: worker migrate"
        )
    if major > SCHEMA_MAJOR:
        raise SettingsError(
            f"DATABASE_URL is refused: its schema is version {major} and this worker knows {SCHEMA_MAJOR}; "
            "for example, deploy a newer worker"
        )

"""What must be right before a pod starts anything."""

from __future__ import annotations

from worker.db import Database
from worker.errors import SettingsError, StorageError
from worker.handlers import HANDLERS
from worker.migrate import SCHEMA_MAJOR
from worker.models import BaseModels
from worker.settings import Settings


async def check_installation(settings: Settings, database: Database, models: BaseModels) -> None:
    """Raises SettingsError, naming the setting with an example, when schema, kinds, buckets or store are wrong."""
    installed = await database.fetch("select to_regprocedure('worker.schema_major()') is not null as found")
    if not installed[0]["found"]:
        raise SettingsError("DATABASE_URL: this database has no Likeness schema yet\n  do: worker migrate")
    major = await database.call("schema_major")
    if major > SCHEMA_MAJOR:
        raise SettingsError(
            f"DATABASE_URL: the schema is version {major}, this worker understands up to {SCHEMA_MAJOR}\n"
            "  do: deploy a newer worker"
        )
    config = (await database.fetch("select bucket_uploads, bucket_models from worker.config"))[0]
    for name, variable in (("bucket_uploads", "BUCKET_UPLOADS"), ("bucket_models", "BUCKET_MODELS")):
        if config[name] != getattr(settings, name):
            raise SettingsError(
                f"{variable}: {getattr(settings, name)!r} here, but {config[name]!r} in the database\n"
                f"  example: {variable}={config[name]}"
            )
    unknown = settings.worker_kinds - set(HANDLERS)
    if unknown:
        raise SettingsError(
            f"WORKER_KINDS: unknown: {', '.join(sorted(unknown))}\n  example: WORKER_KINDS={','.join(sorted(HANDLERS))}"
        )
    try:
        await models.in_bucket()
    except StorageError as error:
        raise SettingsError(
            f"S3_ENDPOINT_URL, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, BUCKET_MODELS: {error.message}\n"
            "  example: S3_ENDPOINT_URL=https://<ref>.storage.supabase.co/storage/v1/s3"
        ) from error

"""What must be right before a pod starts anything. `worker run` refuses with it, and `worker doctor` reports it.

Every check raises SettingsError, which names the setting and says how to fix it.
"""

from __future__ import annotations

import os

import psycopg
import structlog

from worker.database.migrate import SCHEMA_MAJOR
from worker.database.pool import Database
from worker.errors import SettingsError, StorageError
from worker.kinds import load_kinds
from worker.settings import Settings
from worker.storage.object_store import ObjectStore
from worker.storage.writable_dirs import check_folder

log = structlog.get_logger()

BUCKETS = {"bucket_uploads": "BUCKET_UPLOADS", "bucket_models": "BUCKET_MODELS"}


async def check_installation(settings: Settings, database: Database, store: ObjectStore) -> None:
    """Folders, schema, kinds, buckets and store, in this order; the first that is wrong is raised."""
    check_folder("WORK_DIR", settings.work_dir)
    check_models_dir(settings)
    await check_schema(database)
    for name in BUCKETS:
        await check_bucket_name(settings, database, name)
    check_kinds(settings)
    for name in BUCKETS:
        await check_bucket(settings, store, name)
    await _warn_if_privileged(database)


async def _warn_if_privileged(database: Database) -> None:
    (login,) = await database.fetch(
        """select current_user::text as name, pg_has_role(nspowner, 'usage') as owns
           from pg_namespace where nspname = 'worker'"""
    )
    if login["owns"]:  # a superuser too
        log.warning(
            "pod.privileged_role",
            message=f"{login['name']} may do everything in this database, which is too much for a pod",
            hint="give this pod the DATABASE_URL that worker role likeness_pod --apply prints",
        )


def check_models_dir(settings: Settings) -> None:
    """MODELS_DIR accepts files, or exists: a read-only volume serves the models that are on it."""
    if not (os.path.isdir(settings.models_dir) and os.access(settings.models_dir, os.R_OK | os.X_OK)):
        check_folder("MODELS_DIR", settings.models_dir)


async def check_schema(database: Database) -> None:
    """The schema exists, this role may use it, and its major version is not newer than this worker's."""
    try:
        found = await database.fetch("select to_regprocedure('worker.schema_major()') is not null as installed")
        major = await database.call("schema_major") if found[0]["installed"] else None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SettingsError(
            "DATABASE_URL is refused: its role may not call the worker's functions",
            "as the owner: grant likeness_worker to <role>",
        ) from error
    if major is None:
        raise SettingsError(
            "DATABASE_URL leads to a database that has no Likeness schema", "as the owner: worker migrate"
        )
    if major > SCHEMA_MAJOR:
        raise SettingsError(
            f"DATABASE_URL is refused: its schema is version {major} and this worker knows {SCHEMA_MAJOR}",
            "deploy a newer worker",
        )


def check_kinds(settings: Settings) -> None:
    """WORKER_KINDS names kinds of this worker's, or of an installed package's, even of one that cannot be used."""
    kinds, unusable = load_kinds()
    unknown = settings.worker_kinds - kinds.keys() - {kind.name for kind in unusable}
    if unknown:
        raise SettingsError(
            f"WORKER_KINDS is refused: unknown kind {', '.join(sorted(unknown))}",
            f"for example WORKER_KINDS={','.join(sorted(kinds))}",
        )


async def check_bucket_name(settings: Settings, database: Database, name: str) -> None:
    """A bucket is called here as in the database, which refuses keys of any other."""
    config = (await database.fetch("select bucket_uploads, bucket_models from worker.config"))[0]
    variable = BUCKETS[name]
    if config[name] != getattr(settings, name):
        raise SettingsError(
            f"{variable} is refused: {getattr(settings, name)!r} here, but {config[name]!r} in worker.config",
            f"for example {variable}={config[name]}",
        )


async def check_bucket(settings: Settings, store: ObjectStore, name: str) -> None:
    """The store answers, and the bucket is there for these keys."""
    try:
        await store.require_bucket(getattr(settings, name))
    except StorageError as error:
        raise SettingsError(
            error.message,
            f"look at {BUCKETS[name]}, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY and S3_ENDPOINT_URL, "
            "for example https://PROJECT_REF.storage.supabase.co/storage/v1/s3",
        ) from error

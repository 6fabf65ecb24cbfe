"""Checks of the installation before a pod starts anything. `worker run` ends if one fails; `worker doctor` reports it.

Every check raises SettingsError, which names the setting and says how to fix it.
"""

from __future__ import annotations

import importlib.util
import os

import psycopg
import structlog
from psycopg.types.json import Jsonb

from worker.database.meanings import READ_ONLY, explain_read_only
from worker.database.pool import Database
from worker.database.schema.migrate import SCHEMA_MAJOR
from worker.errors import SettingsError, StorageError, truncate_list
from worker.kinds import load_kinds
from worker.models.names import BUCKET_PREFIX
from worker.settings import Settings, variable
from worker.storage.marker import read_markers
from worker.storage.object_store import ObjectStore
from worker.storage.writable_dirs import check_writable

log = structlog.get_logger()

_HIDDEN_TABLES = """
    select coalesce(array_agg(oid::regclass::text order by 1), '{}') as tables from pg_class
    where relnamespace = to_regnamespace('worker') and relkind = 'r' and row_security_active(oid)"""

BUCKETS = {name: variable(name) for name in Settings.model_fields if name.startswith("bucket_")}
"""The variables of the buckets that jobs write to, by their fields; worker.config has a column for each."""


async def check_installation(
    settings: Settings, database: Database, store: ObjectStore, models_store: ObjectStore
) -> None:
    """Check folders, schema, kinds, buckets and stores, in this order. Raises SettingsError at the first problem."""
    check_writable("WORK_DIR", settings.work_dir)
    check_models_dir(settings)
    check_upscaler(settings)
    await check_writable_database(database)
    await check_schema(database)
    for name in BUCKETS:
        await check_bucket_name(settings, database, name)
    check_kinds(settings)
    for name in BUCKETS:
        await check_bucket(settings, store, name)
    if models_store is not store:
        await check_models_bucket(settings, models_store)
    await check_markers(settings, database, store)
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
    """Check that MODELS_DIR is writable, or at least readable: a read-only volume offers the models on it."""
    if not (os.path.isdir(settings.models_dir) and os.access(settings.models_dir, os.R_OK | os.X_OK)):
        check_writable("MODELS_DIR", settings.models_dir)


def check_upscaler(settings: Settings) -> None:
    """Check that the package of UPSCALER is installed."""
    if importlib.util.find_spec(settings.upscaler) is None:
        raise SettingsError(
            f"UPSCALER={settings.upscaler}: the package {settings.upscaler} is not installed",
            f"pip install 'likeness-worker[{settings.upscaler}]' on Python 3.11 or 3.12, or set UPSCALER=spandrel",
        )


async def check_writable_database(database: Database) -> None:
    """Check that the database is neither a replica nor read-only, as Supabase makes one whose disk is full."""
    (found,) = await database.fetch(READ_ONLY)
    unwritable = explain_read_only(**found)
    if unwritable:
        raise unwritable


_SCHEMA = """
    select to_regprocedure('worker.schema_major()') is not null as installed,
           to_regprocedure('worker.pod_heartbeat(uuid, jsonb, jsonb)') is not null
           and to_regprocedure('worker.usable_routes(text, text[], double precision)') is not null
           and to_regprocedure('worker.base_can(worker.base_models, text[])') is not null
           and to_regprocedure('worker.redirect_error(text)') is not null as current"""
"""The schema is current with the newest functions without which a pod cannot work."""


async def check_schema(database: Database) -> None:
    """Check that the schema exists, fits this worker, neither older nor newer, and shows this role its rows."""
    try:
        (found,) = await database.fetch(_SCHEMA)
        major = await database.call("schema_major") if found["installed"] else None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SettingsError(
            "permission denied for DATABASE_URL: its role may not call the worker's functions",
            "as the database owner: grant likeness_worker to <role>",
        ) from error
    if major is None:
        raise SettingsError(
            "schema worker not found in the database of DATABASE_URL", "as the database owner: worker migrate"
        )
    if major > SCHEMA_MAJOR:
        raise SettingsError(
            f"the schema of DATABASE_URL is unsupported: its version is {major}, this worker supports {SCHEMA_MAJOR}",
            "deploy a newer worker",
        )
    if not found["current"]:
        raise SettingsError(
            "the schema of DATABASE_URL is older than this worker", "as the database owner: worker migrate"
        )
    (hidden,) = await database.fetch(_HIDDEN_TABLES)
    if hidden["tables"]:
        raise SettingsError(
            f"row-level security is on for {truncate_list(hidden['tables'])}: a pod sees no rows, and no error says so",
            "as the database owner: worker migrate --repair; an event trigger may have switched it on",
        )


def check_kinds(settings: Settings) -> None:
    """Check that WORKER_KINDS names kinds of this worker or an installed package, even of one that cannot be used."""
    kinds, unusable = load_kinds()
    unknown = settings.worker_kinds - kinds.keys() - {kind.name for kind in unusable}
    if unknown:
        raise SettingsError(
            f"WORKER_KINDS is refused: unknown kind {', '.join(sorted(unknown))}",
            f"for example WORKER_KINDS={','.join(sorted(kinds))}",
        )


async def check_bucket_name(settings: Settings, database: Database, name: str) -> None:
    """Check that a bucket has the same name here and in the database, which refuses keys of any other bucket."""
    rows = await database.fetch("select * from worker.config")
    if not rows:
        raise SettingsError(
            "worker.config has no row, which a restore of the schema alone leaves out",
            "restore it, or as the database owner: insert into worker.config default values",
        )
    config, variable = rows[0], BUCKETS[name]
    if config[name] != getattr(settings, name):
        raise SettingsError(
            f"{variable} is refused: {getattr(settings, name)!r} here, but {config[name]!r} in worker.config",
            f"for example {variable}={config[name]}",
        )


async def check_bucket(settings: Settings, store: ObjectStore, name: str) -> None:
    """Check that the store responds, and that these credentials may access the bucket."""
    try:
        await store.require_bucket(getattr(settings, name))
    except StorageError as error:
        raise SettingsError(
            error.message,
            f"check {BUCKETS[name]}, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY and S3_ENDPOINT_URL, "
            "for example https://PROJECT_REF.storage.supabase.co/storage/v1/s3; worker storage init creates a bucket",
        ) from error


async def check_models_bucket(settings: Settings, store: ObjectStore) -> None:
    """Check that the store of MODELS_S3_* responds, and that these credentials may list base models and read them."""
    bucket = settings.base_models_bucket
    try:
        await store.require_bucket(bucket)
        for stored in (await store.list(bucket, BUCKET_PREFIX))[:1]:
            await store.head(bucket, stored.key)
    except StorageError as error:
        raise SettingsError(
            error.message,
            "check MODELS_S3_BUCKET, MODELS_S3_ENDPOINT_URL, MODELS_S3_REGION, MODELS_S3_ACCESS_KEY_ID and "
            "MODELS_S3_SECRET_ACCESS_KEY, or those of S3_* where they are not set; read access is enough",
        ) from error


async def check_markers(settings: Settings, database: Database, store: ObjectStore) -> None:
    """Check that database and buckets belong together: a copy of the database must not use the original's buckets.

    Buckets without a marker that can be read are used, with a warning; nothing is deleted from them.
    """
    error = await database.call("installation_error")
    if error is not None:
        raise SettingsError(error)
    buckets = {getattr(settings, name) for name in BUCKETS}
    judged = await database.call("judge_markers", Jsonb(await read_markers(store, buckets)))
    foreign = [found["problem"] for found in judged.values() if found["state"] == "foreign"]
    if foreign:
        raise SettingsError("\n".join(foreign))
    for bucket, found in judged.items():
        if found["problem"] is not None:
            log.warning(
                "bucket.not_proven",
                message="jobs run, but nothing is deleted from this bucket, and LoRAs are not copied",
                bucket=bucket,
                reason=found["problem"],
            )

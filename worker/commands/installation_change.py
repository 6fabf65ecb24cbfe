"""Moves or adopts an installation: the database first, then the markers of its buckets.

A command that was interrupted in between is run again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from worker.database.pool import Database
from worker.errors import CommandRefused, StorageError
from worker.pod.preflight import BUCKETS, check_bucket_name, check_schema
from worker.settings import Settings
from worker.storage.marker import read_markers, write_marker
from worker.storage.object_store import ObjectStore


async def move(settings: Settings) -> str:
    """Make the database of DATABASE_URL the home of its installation. Returns what to do next.

    Raises CommandRefused if a bucket belongs to another installation, or its marker cannot be read or written.
    """
    async with _opened(settings) as (database, store):
        (row,) = await database.fetch("select id::text from worker.installation")
        seen = await _read(settings, store)
        others = {bucket: found["id"] for bucket, found in seen.items() if found.get("id", row["id"]) != row["id"]}
        for bucket, installation in others.items():
            raise CommandRefused(
                f"bucket {bucket} belongs to another installation, {installation}; this one is {row['id']}. "
                "If this is a copy: give it buckets of its own, then worker installation adopt"
            )
        marker = await database.call("move_installation")
        marked = [bucket for bucket, found in seen.items() if "id" in found]
        await _write(database, store, marked, marker)
        (wait,) = await database.fetch("select 2 * worker.timing('marker_period') as wait")
    lines = [f"This database is now the home of installation {marker['id']}, in era {marker['era']}."]
    if marked:
        lines.append(
            f"Nothing is deleted or copied until pods have held {' and '.join(marked)} for {wait['wait']}. "
            "Another database that still uses them refuses to start jobs from now on."
        )
    lines += [
        f"Bucket {bucket} is not marked: worker storage init marks it." for bucket in seen if bucket not in marked
    ]
    return "\n".join(lines)


async def adopt(settings: Settings) -> str:
    """Make the database of DATABASE_URL an installation of its own. Returns what was done.

    Raises CommandRefused unless the buckets are unmarked.
    """
    async with _opened(settings) as (database, store):
        for name in BUCKETS:
            await store.ensure_bucket(getattr(settings, name))
        seen = await _read(settings, store)
        marked = [bucket for bucket, found in seen.items() if "id" in found]
        if marked:
            raise CommandRefused(
                f"{' and '.join(marked)} already belong to an installation: give this one buckets of its own, in "
                f"worker.config and in {', '.join(BUCKETS.values())}, or at another S3_ENDPOINT_URL"
            )
        marker = await database.call("adopt_installation")
        await _write(database, store, list(seen), marker, first=True)
    return f"This database is now installation {marker['id']}, in era {marker['era']}, of {' and '.join(seen)}."


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Database, ObjectStore]]:
    """Connect as the owner, with buckets named as in the database. Raises CommandRefused and SettingsError."""
    store = ObjectStore(settings.store_config)
    try:
        async with Database(settings.database_url.get_secret_value(), "command") as database:
            await check_schema(database)
            for name in BUCKETS:
                await check_bucket_name(settings, database, name)
            yield database, store
    except psycopg.errors.InsufficientPrivilege as error:
        raise CommandRefused(
            f"permission denied ({error.diag.message_primary}): set DATABASE_URL to the URL of the database's owner"
        ) from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction) as error:
        raise CommandRefused("the schema is of an older release: as the database owner, worker migrate") from error
    except psycopg.OperationalError as error:
        raise CommandRefused(f"the database failed: {error.diag.message_primary or 'the connection broke'}") from error
    except StorageError as error:
        raise CommandRefused(f"{error.message}; then run this again") from error
    finally:
        await store.close()


async def _read(settings: Settings, store: ObjectStore) -> dict[str, dict[str, Any]]:
    seen = await read_markers(store, sorted({getattr(settings, name) for name in BUCKETS}))
    for bucket, found in seen.items():
        if "unreadable" in found:
            raise CommandRefused(f"the marker of bucket {bucket} cannot be read: {found['unreadable']}")
    return seen


async def _write(
    database: Database, store: ObjectStore, buckets: list[str], marker: dict[str, Any], *, first: bool = False
) -> None:
    for bucket in buckets:
        await write_marker(store, bucket, marker, first=first)
    noted = await database.call("note_markers", Jsonb(await read_markers(store, buckets)))
    others = [bucket for bucket in buckets if noted[bucket]["state"] != "ours"]
    if others:
        raise CommandRefused(f"{noted[others[0]]['hold']}. Another database marked it at the same moment.")

"""The database as this pod reaches it: the connection, LISTEN, the schema, the clocks."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import psycopg

from worker.commands.checks.catalog import CATALOG, COLLATION, check_catalog
from worker.commands.checks.report import CheckWarning, Report
from worker.database.connections import OwnAsyncConnection, options_of
from worker.database.errors import explain_connection
from worker.database.pool import Database
from worker.database.schema.migrate import MigrationError, pending_files
from worker.database.schema.sql_files import numbered_files, this_release
from worker.errors import SettingsError, truncate_list
from worker.pod.preflight import check_schema, check_writable_database
from worker.pod.session import LISTEN_HINT, listen_works
from worker.settings import Settings

OLDEST_POSTGRES = 15
SKEW_LIMIT = timedelta(seconds=30)
"""Well below the 15 minutes at which an object store refuses signatures."""
CONNECTION, WRITABLE, LISTEN, CLOCK, SCHEMA, RELEASE = "connection", "writable", "LISTEN", "clock", "schema", "release"
AFTER_CONNECTION = (WRITABLE, LISTEN, CLOCK, SCHEMA, RELEASE, CATALOG, COLLATION)


async def check_database(report: Report, settings: Settings, stack: AsyncExitStack) -> Database | None:
    """Check all of it. Returns the database, open until `stack` ends; None if it or its schema cannot be used."""
    if not settings.database_url.get_secret_value():
        report.skip("DATABASE_URL is missing or malformed", CONNECTION, *AFTER_CONNECTION)
        return None
    database = Database(settings.database_url.get_secret_value(), "doctor")
    if not await report.check(CONNECTION, _connect(database, stack)):
        report.skip("no connection to the database", *AFTER_CONNECTION)
        return None
    await report.check(WRITABLE, _writable(database))
    await report.check(LISTEN, _listen(settings, database))
    await report.check(CLOCK, _clock(database))
    if not await report.check(SCHEMA, _schema(database)):
        report.skip("no usable schema", RELEASE, CATALOG, COLLATION)
        return None
    await report.check(RELEASE, _release(database))
    await check_catalog(report, database)
    return database


async def _connect(database: Database, stack: AsyncExitStack) -> str:
    await stack.enter_async_context(database)
    async with database.pooled() as connection:
        encrypted, host, port = connection.pgconn.ssl_in_use, connection.info.host, connection.info.port
    (row,) = await database.fetch(
        """select current_user::text as login, current_database()::text as name,
                  current_setting('server_version_num')::int / 10000 as major"""
    )
    where = f"{host}:{port}/{row['name']} as {row['login']}, PostgreSQL {row['major']}"
    if row["major"] < OLDEST_POSTGRES:
        raise SettingsError(
            f"{where}; PostgreSQL {OLDEST_POSTGRES} or newer is required",
            "upgrade the server: Supabase offers 15 and 17",
        )
    if encrypted:
        return f"{where}, encrypted"
    if host.startswith("/") or host in ("localhost", "127.0.0.1", "::1"):
        return f"{where}, on this machine"
    raise CheckWarning(f"{where}, NOT encrypted", "add ?sslmode=require to DATABASE_URL unless the network is private")


async def _writable(database: Database) -> str:
    await check_writable_database(database)
    return "neither a replica nor read-only"


async def _listen(settings: Settings, database: Database) -> str:
    variable = "DATABASE_URL" if settings.database_listen_url is None else "DATABASE_LISTEN_URL"
    try:
        connection = await OwnAsyncConnection.connect(
            settings.listen_url.get_secret_value(), **options_of("likeness doctor")
        )
    except psycopg.OperationalError as error:
        raise explain_connection(error, variable) from error
    async with connection:
        if await listen_works(connection, database):
            return f"a test notification arrived through {variable}"
    raise SettingsError(
        f"notifications do not arrive through {variable}: it is the address of a pooler in transaction mode, or of "
        "another database; a pod would poll every 2 s",
        LISTEN_HINT,
    )


async def _schema(database: Database) -> str:
    await check_schema(database)
    return "installed, and this login may use it"


async def _release(database: Database) -> str:
    rows = await database.fetch("select name, checksum from worker.schema_versions")
    applied = {row["name"]: row["checksum"] for row in rows}
    numbered = numbered_files()
    newer = sorted({name for name in applied if name[:4].isdigit()} - {file.name for file in numbered})
    if newer:
        raise CheckWarning(
            f"the database was migrated by a newer release, with {', '.join(newer)}",
            "deploy that release here too; until then this pod still works",
        )
    try:
        # Of this project alone: a pod need not have the packages that bring other kinds.
        pending = pending_files(
            {(None, name): checksum for name, checksum in applied.items()}, this_release(packages=())
        )
    except MigrationError as error:
        raise SettingsError(str(error), "deploy the release that migrated this database") from error
    differing = [file.name for file in pending if applied.get(file.name) != file.checksum]
    if differing:
        at = max((name for name in applied if name[:4].isdigit()), default="0000")
        release = "an older" if any(file.number for file in pending) else "another"
        raise SettingsError(
            f"the database is at {at}, of {release} release than this one: "
            f"{truncate_list(differing)} missing or different there",
            "as the database owner, with the newer of the two releases: worker migrate, or for supabase db push: "
            f"worker migrate --print --since {int(at[:4])}",
        )
    return f"the database was migrated by this release, up to {numbered[-1].name}"


async def _clock(database: Database) -> str:
    before = datetime.now(UTC)
    (row,) = await database.fetch("select clock_timestamp() as now")
    return format_clock_skew(before + (datetime.now(UTC) - before) / 2, row["now"])


def format_clock_skew(here: datetime, there: datetime) -> str:
    """Return the difference between two clocks in words. Raises SettingsError if it is over `SKEW_LIMIT`."""
    skew = here - there
    difference = f"{abs(skew.total_seconds()):.1f} s {'ahead of' if skew > timedelta(0) else 'behind'} the database's"
    if abs(skew) > SKEW_LIMIT:
        raise SettingsError(
            f"this machine's clock is {difference}; object stores reject signatures with a wrong time",
            "set the clock: timedatectl set-ntp true",
        )
    return f"this machine's is {difference}"

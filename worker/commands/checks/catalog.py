"""What the database lost since it was migrated: policies, triggers, rights, functions, publications."""

from __future__ import annotations

from worker.commands.checks.report import CheckSkipped, CheckWarning, Report
from worker.database.pool import Database
from worker.database.schema.catalog import DAMAGE, Damage, summarize
from worker.errors import SettingsError

CATALOG, COLLATION = "catalog", "collation"

_MAY_COMPARE = """
    select to_regprocedure('worker.catalog_damage()') is not null as known,
           has_function_privilege(to_regprocedure('worker.catalog_damage()'), 'execute') as may"""

_COLLATION = """
    select datcollversion as recorded, pg_database_collation_actual_version(oid) as actual,
           'ë' ~ '^[[:alpha:]]$' as letters
    from pg_database where datname = current_database()"""


async def check_catalog(report: Report, database: Database) -> None:
    """Check what the database lost since the newest migration, and that its indexes sort as its server does."""
    await report.check(CATALOG, _catalog(database))
    await report.check(COLLATION, _collation(database))


async def _catalog(database: Database) -> str:
    (rights,) = await database.fetch(_MAY_COMPARE)
    if not rights["known"]:
        raise SettingsError(
            "not compared: the database was migrated by a release that recorded nothing, or lost the comparison",
            "as the database owner: worker migrate, then worker migrate --repair",
        )
    if not rights["may"]:
        raise CheckSkipped("not compared: only the database owner can; run this with the owner's DATABASE_URL")
    damage = [Damage(**row) for row in await database.fetch(DAMAGE)]
    wrong = [each for each in damage if not each.is_an_apps_own]
    if wrong:
        raise SettingsError(f"not as the migrations left it: {summarize(wrong)}", "worker migrate --repair")
    if damage:
        raise CheckWarning(
            f"not of the migrations: {summarize(damage)}",
            "drop it, if nobody meant to give people these rights",
        )
    return "policies, triggers, rights, functions and publications are as the migrations left them"


async def _collation(database: Database) -> str:
    (versions,) = await database.fetch(_COLLATION)
    if not versions["letters"]:
        raise CheckWarning(
            "this database knows no letters but a to z: trigger words with others are refused",
            "only another database can have another locale: create database … encoding 'UTF8' locale 'C.UTF-8'",
        )
    if versions["recorded"] == versions["actual"]:
        return "texts are sorted as when the indexes were created"
    raise CheckWarning(
        f"the server's libraries sort texts by version {versions['actual']}, the indexes by {versions['recorded']}",
        "as the database owner: reindex database, then alter database … refresh collation version",
    )

"""Whose the buckets are: this database against its copies. Reads markers and records nothing."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from worker.commands.checks.report import CheckWarning, Report
from worker.database.pool import Database
from worker.errors import SettingsError
from worker.pod.preflight import BUCKETS
from worker.settings import Settings
from worker.storage.marker import read_marker
from worker.storage.object_store import ObjectStore

HOME = "installation"


async def check_installation_marks(
    report: Report, settings: Settings, database: Database | None, store: ObjectStore | None
) -> None:
    """Check that this database is where it was installed, and that each bucket bears its marker."""
    labels = {bucket: f"bucket {bucket}, marker" for bucket in sorted({getattr(settings, name) for name in BUCKETS})}
    if database is None:
        report.skip("no usable database", HOME, *labels.values())
        return
    await report.check(HOME, _home(database))
    if store is None:
        report.skip("the object store cannot be reached", *labels.values())
        return
    for bucket, label in labels.items():
        await report.check(label, _marker(database, store, bucket))


async def _home(database: Database) -> str:
    error = await database.call("installation_error")
    if error is not None:
        raise SettingsError(error, "no job is started and nothing is deleted until then")
    return "this database is where it was installed"


async def _marker(database: Database, store: ObjectStore, bucket: str) -> str:
    judged = await database.call("judge_markers", Jsonb({bucket: await read_marker(store, bucket)}))
    state, problem = judged[bucket]["state"], judged[bucket]["problem"]
    if state == "foreign":
        raise SettingsError(problem, "no job is started and nothing is deleted until then")
    if problem is not None:
        raise CheckWarning(problem, "until then jobs run, but nothing is deleted from this bucket")
    hold = await database.call("storage_hold", bucket)
    if hold is not None:
        raise CheckWarning(f"marked as this installation's; {hold}", "start a pod, and wait")
    return "marked as this installation's; deletable objects are deleted"

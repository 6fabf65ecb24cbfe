"""`worker storage init`: the buckets that the settings name, private."""

from __future__ import annotations

from worker.commands.checks.report import Report
from worker.commands.checks.storage import try_bucket
from worker.errors import SettingsError, StorageError
from worker.pod.preflight import BUCKETS
from worker.settings import Settings
from worker.storage.errors import server_responded
from worker.storage.object_store import ObjectStore

UNREACHED = "correct S3_ENDPOINT_URL, or open the network to it"
BY_HAND = "make it by hand, private (Supabase: Storage → New bucket), or take keys that may: S3_ACCESS_KEY_ID"


async def make_buckets(settings: Settings, report: Report) -> None:
    """Make what is not there yet, and try each: one that anybody may read is told as wrong, made now or before."""
    store = ObjectStore(settings.store_config)
    try:
        for name in BUCKETS:
            bucket = getattr(settings, name)
            if await report.check(f"bucket {bucket}", _make(store, bucket)):
                await report.check(f"bucket {bucket}, use", try_bucket(store, bucket))
    finally:
        await store.close()


async def _make(store: ObjectStore, bucket: str) -> str:
    try:
        made = await store.ensure_bucket(bucket)
    except StorageError as error:
        raise SettingsError(error.message, BY_HAND if server_responded(error) else UNREACHED) from error
    return "made, private" if made else "there already"

"""Creates the buckets that the settings name, as private."""

from __future__ import annotations

from worker.commands.checks.report import Report
from worker.commands.checks.storage import try_bucket
from worker.errors import SettingsError, StorageError
from worker.pod.preflight import BUCKETS
from worker.settings import Settings
from worker.storage.errors import server_responded
from worker.storage.object_store import ObjectStore

UNREACHED = "correct S3_ENDPOINT_URL, or open the network to it"
BY_HAND = (
    "create it by hand, private (Supabase: Storage → New bucket), or use an S3_ACCESS_KEY_ID that may create buckets"
)


async def create_buckets(settings: Settings, report: Report) -> None:
    """Create missing buckets, and try each. A bucket that can be read without keys fails, whoever created it."""
    store = ObjectStore(settings.store_config)
    try:
        for name in BUCKETS:
            bucket = getattr(settings, name)
            if await report.check(f"bucket {bucket}", _create(store, bucket, settings.store_config.region)):
                await report.check(f"bucket {bucket}, use", try_bucket(store, bucket))
    finally:
        await store.close()


async def _create(store: ObjectStore, bucket: str, region: str) -> str:
    try:
        done = await store.ensure_bucket(bucket)
    except StorageError as error:
        raise SettingsError(error.message, BY_HAND if server_responded(error) else UNREACHED) from error
    return {
        "existed": "already exists",
        "created": f"created, private, in region {region}",
        "created without a region": f"created, private; the server refused the region {region} and chose one itself",
    }[done]

"""The cache purge: deletes cached LoRAs of people whose consent ended, at every heartbeat's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from uuid import UUID

import structlog

from worker.storage.lora_cache import LoraCache

log = structlog.get_logger()

PURGE_ALL_AFTER_SILENCE_S = 45.0
"""After a longer silence every person's cache is purged. Shorter than `consent_overlap` of `worker.timing`, for which
answers repeat whose consent ended."""


async def purge_cached_loras(loras: LoraCache, ended_subjects: Collection[str], silent_s: float) -> None:
    """Delete the cached LoRAs of these people, or of everyone if the database did not answer for too long."""
    if silent_s > PURGE_ALL_AFTER_SILENCE_S:
        await asyncio.to_thread(loras.forget_all)
    for subject_id in ended_subjects:
        if await asyncio.to_thread(loras.forget, UUID(subject_id)):
            log.info("cache.purged", subject_id=subject_id)

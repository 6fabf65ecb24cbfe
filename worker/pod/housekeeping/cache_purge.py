"""The cache purge: at every heartbeat's answer, deletes the cached files of people who do not consent to their use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from uuid import UUID

import structlog

from worker.storage.workspace import Workspace

log = structlog.get_logger()


async def held_files(workspace: Workspace) -> list[dict[str, str]]:
    """Return the people whose files are cached and what for, as a heartbeat names them."""
    held = await asyncio.to_thread(workspace.held)
    return [{"subject_id": str(subject_id), "purpose": purpose} for subject_id, purpose in held]


async def purge(workspace: Workspace, ended: Iterable[Mapping[str, str]]) -> None:
    """Delete what a heartbeat's answer says may not be kept."""
    for held in ended:
        await asyncio.to_thread(workspace.forget, UUID(held["subject_id"]), held["purpose"])
        log.info("cache.purged", **held)

"""The health touch: shows `worker health` that this process's event loop still runs."""

from __future__ import annotations

import asyncio

from worker.storage.workspace import Workspace

TOUCH_EVERY_S = 5.0


async def keep_touching(workspace: Workspace) -> None:
    """Touch this process's file; never returns."""
    while True:
        workspace.touch()
        await asyncio.sleep(TOUCH_EVERY_S)

"""Wait in the event loop for a transfer that s3transfer runs in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3transfer.futures import TransferFuture

UNWIND_S = 1.0
"""How long a cancelled transfer may take to close its files."""


class TransferWaiter:
    """Subscribes to one transfer. `on_bytes` is called in threads with the number of bytes sent or received."""

    def __init__(self, on_bytes: Callable[[int], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._on_bytes = on_bytes

    def on_progress(self, future: TransferFuture, bytes_transferred: int, **_: object) -> None:
        """Pass progress on; s3transfer calls this."""
        if self._on_bytes is not None:
            self._on_bytes(bytes_transferred)

    def on_done(self, future: TransferFuture, **_: object) -> None:
        """Wake the waiting task; s3transfer calls this."""
        self._loop.call_soon_threadsafe(self._done.set)

    async def wait(self, transfer: TransferFuture) -> None:
        """Wait for the transfer and raise its error. Cancels the transfer when the waiting task is cancelled."""
        try:
            await self._done.wait()
        except asyncio.CancelledError:
            # A request in flight ends with its next read or write, and only then deletes its temporary file. Wait for
            # that, because the caller may be about to delete the folder.
            transfer.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(UNWIND_S):
                    await self._done.wait()
            raise
        transfer.result()

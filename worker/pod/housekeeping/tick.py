"""The tick: `worker.take_over` and `worker.run_housekeeping`, called by the two pods that the database chose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.database.pool import Database
from worker.database.transient import suppress_transient_errors

TICK_EVERY_S = 2.0


class Tick:
    """Ticks while this pod is chosen to; every answer to a heartbeat or registration says whether it is."""

    def __init__(self, database: Database, on_deletable_objects: Callable[[], None]) -> None:
        """`on_deletable_objects` is called after a tick that found some."""
        self._database = database
        self._on_deletable_objects = on_deletable_objects
        self._chosen = asyncio.Event()
        self._housekeeping_due = asyncio.Event()

    def set_chosen(self, chosen: bool) -> None:
        """Begin or cease to tick."""
        if chosen:
            self._chosen.set()
        else:
            self._chosen.clear()

    async def run(self) -> None:
        """Take over from dead pods whenever this pod is chosen; never returns."""
        while True:
            await self._chosen.wait()
            with suppress_transient_errors("tick.failed"):
                found = await self._database.call_once("take_over")
                if found is not None and found["deletable"]:
                    self._on_deletable_objects()
                if found is not None and found["housekeeping"]:
                    self._housekeeping_due.set()
            await asyncio.sleep(TICK_EVERY_S)

    async def run_housekeeping(self) -> None:
        """Do the database's housekeeping after each tick that found it due, beside further ticks; never returns."""
        while True:
            await self._housekeeping_due.wait()
            with suppress_transient_errors("housekeeping.failed"):
                await self._database.call_once("run_housekeeping")
            self._housekeeping_due.clear()

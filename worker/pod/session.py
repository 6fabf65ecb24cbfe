"""The one connection of a pod that needs a session: it listens, and holds the lock that says the process lives.

When it breaks, the first reconnect is immediate, then with backoff below the reaper's grace. Behind a transaction-mode
pooler neither LISTEN nor session locks work: a round trip between two connections finds that out, and the pod polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import sql

from worker.database.errors import password_refused
from worker.database.pool import CANCEL_CHANNEL, KEEPALIVES, QUEUE_CHANNEL, Database, is_transient

log = structlog.get_logger()

PROBE_TIMEOUT_S = 5.0
IDLE_PROBE_S = 30.0
"""A listening connection that a middle box cut says nothing: ask it something now and then."""
NO_LISTEN_CURE = "set DATABASE_LISTEN_URL to a direct or session-mode address (on Supabase port 5432)"
BACKOFF_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)
LOG_EVERY_N_FAILURES = 60
"""Failures, of which there is then one a second: a long outage is told once a minute."""
TELL_WITHIN_S = 5.0


async def listen_works(connection: psycopg.AsyncConnection, database: Database) -> bool:
    """Whether a notification sent through `database` arrives here: never so behind a transaction-mode pooler."""
    channel = sql.Identifier(f"likeness_probe_{uuid4().hex}")
    await connection.execute(sql.SQL("listen {}").format(channel))
    await database.fetch("select pg_notify(%s, '')", [channel.as_string().strip('"')])
    heard = [notification async for notification in connection.notifies(timeout=PROBE_TIMEOUT_S, stop_after=1)]
    await connection.execute(sql.SQL("unlisten {}").format(channel))
    return bool(heard)


@dataclass
class Session:
    """State of the session connection; `run` keeps it up until it is cancelled."""

    url: str
    database: Database
    pod_id: UUID
    on_queue: Callable[[], None]
    """A job may have become claimable."""
    on_cancel: Callable[[str], None]
    """A running job, as kind:id, was told to stop."""
    on_state: Callable[[], Awaitable[None]]
    """`has_lock` and `listening` are known for the first time, or changed."""
    has_lock: bool = False
    listening: bool = False
    first_try: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is known whether this pod has a session."""
    _warned: bool = False

    async def run(self) -> None:
        """Connect, listen, reconnect; never returns."""
        failures, told = 0, False
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self.url,
                    autocommit=True,
                    prepare_threshold=None,
                    application_name="likeness session",
                    **KEEPALIVES,
                ) as connection:
                    await self._set_up(connection)
                    failures, told = 0, False
                    await self._listen(connection)
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                reason = str(error).strip().splitlines() or [type(error).__name__]
                if failures < len(BACKOFF_S) or failures % LOG_EVERY_N_FAILURES == 0:
                    log.warning("session.lost", reason=reason[0], failures=failures)
                if password_refused(error) and not told:
                    told = True
                    log.error(
                        "session.password_refused",
                        what="the password was refused, most likely because it was changed",
                        remedy="start it again with the new DATABASE_URL, which worker role NAME --rotate printed",
                    )
            was_up, self.has_lock, self.listening = self.has_lock or self.listening, False, False
            if was_up:
                with suppress(TimeoutError):  # where the database is gone; the next session tells its own state
                    await asyncio.wait_for(self.on_state(), TELL_WITHIN_S)
            await self._publish_initial_state()
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def _set_up(self, connection: psycopg.AsyncConnection) -> None:
        if not await listen_works(connection, self.database):
            if not self._warned:
                log.error(
                    "session.no_listen",
                    what="LISTEN does not work here, so this pod polls every 2 s and is only seen by its heartbeats",
                    remedy=NO_LISTEN_CURE,
                )
                self._warned = True
            await self._publish_initial_state()
            return
        # Seen from the server too, so that a vanished pod's lock goes within seconds. No effect on a Unix socket.
        await connection.execute("set tcp_keepalives_idle = 5")
        await connection.execute("set tcp_keepalives_interval = 2")
        await connection.execute("set tcp_keepalives_count = 3")
        # Shared, so that a reconnect never waits for its own ghost.
        await connection.execute("select pg_advisory_lock_shared(worker.pod_lock_key(%s))", [self.pod_id])
        for channel in (QUEUE_CHANNEL, CANCEL_CHANNEL):
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        self.has_lock = self.listening = True
        await self.on_state()
        self.first_try.set()
        self.on_queue()  # whatever came while nobody listened

    async def _publish_initial_state(self) -> None:
        if not self.first_try.is_set():
            await self.on_state()
            self.first_try.set()

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            async for notification in connection.notifies(timeout=IDLE_PROBE_S):
                if notification.channel == QUEUE_CHANNEL:
                    self.on_queue()
                elif notification.channel == CANCEL_CHANNEL:
                    self.on_cancel(notification.payload)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connection.execute("select 1"), PROBE_TIMEOUT_S)
                continue
            raise psycopg.OperationalError("the session connection does not answer")

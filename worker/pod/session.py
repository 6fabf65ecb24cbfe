"""The session connection of a pod: it listens, and holds the lock that shows that the process is alive.

When it breaks, the first reconnect is immediate; later ones back off, but stay below the reaper's grace. Behind a
transaction-mode pooler neither LISTEN nor session locks work: a notification between two connections detects that, and
the pod polls instead.
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

from worker.database.claim_queue import QUEUE_CHANNEL
from worker.database.connections import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    OwnAsyncConnection,
    options_of,
)
from worker.database.errors import password_refused
from worker.database.pool import Database
from worker.database.transient import is_transient

log = structlog.get_logger()

CANCEL_CHANNEL = "likeness_cancel"

PROBE_TIMEOUT_S = 5.0
IDLE_PROBE_EVERY_S = 30.0
"""A listening connection that a middlebox dropped reports nothing, so it is probed now and then."""
BACKOFF_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)
LOG_EVERY_N_FAILURES = 60
"""By then there is one failure a second: a long outage is logged once a minute."""
ANNOUNCE_LOSS_WITHIN_S = 5.0

LISTEN_HINT = "set DATABASE_LISTEN_URL to a direct or session-mode address (on Supabase port 5432)"


async def listen_works(connection: OwnAsyncConnection, database: Database) -> bool:
    """Return True if a notification sent through `database` arrives here; False behind a transaction-mode pooler."""
    channel = sql.Identifier(f"likeness_probe_{uuid4().hex}")
    await connection.execute(sql.SQL("listen {}").format(channel))
    await database.fetch("select pg_notify(%s, '')", [channel.as_string().strip('"')])
    heard = [notification async for notification in connection.notifies(timeout=PROBE_TIMEOUT_S, stop_after=1)]
    await connection.execute(sql.SQL("unlisten {}").format(channel))
    return bool(heard)


@dataclass
class Session:
    """State of the session connection; `run` keeps it open until it is cancelled."""

    url: str
    database: Database
    pod_id: UUID
    on_queue: Callable[[str], None]
    """A job of this route may have become claimable; of any route, if it is empty."""
    on_cancel: Callable[[str], None]
    """The cancellation of a running job, as kind:id, was requested."""
    on_state: Callable[[], Awaitable[None]]
    """`has_lock` and `listening` are known for the first time, or changed."""
    has_lock: bool = False
    listening: bool = False
    first_try: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is known whether this pod has a session."""
    _failures: int = 0
    """Since the session was last up."""
    _password_refusal_logged: bool = False
    _unsupported_logged: bool = False

    async def run(self) -> None:
        """Connect, listen, reconnect; never returns."""
        while True:
            try:
                await self._connect_and_listen()
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                self._log_failure(error)
            was_up, self.has_lock, self.listening = self.has_lock or self.listening, False, False
            if was_up:
                with suppress(TimeoutError):  # the database is down; the next session announces its own state
                    async with asyncio.timeout(ANNOUNCE_LOSS_WITHIN_S):
                        await self.on_state()
            await self._publish_initial_state()
            await asyncio.sleep(BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)])
            self._failures += 1

    async def _connect_and_listen(self) -> None:
        """Hold one session connection. Raises OperationalError when it ends."""
        async with await OwnAsyncConnection.connect(self.url, **options_of("likeness session")) as connection:
            await self._set_up(connection)
            self._failures, self._password_refusal_logged = 0, False
            await self._listen(connection)

    async def _set_up(self, connection: OwnAsyncConnection) -> None:
        if not await listen_works(connection, self.database):
            self._log_unsupported()
            await self._publish_initial_state()
            return
        await connection.take_session(is_known_to_hold=True)
        # On the server's side too, so that a vanished pod's lock is freed within seconds. No effect on a Unix socket.
        for setting, value in (
            ("tcp_keepalives_idle", KEEPALIVE_IDLE_S),
            ("tcp_keepalives_interval", KEEPALIVE_INTERVAL_S),
            ("tcp_keepalives_count", KEEPALIVE_COUNT),
        ):
            await connection.execute(sql.SQL("set {} = {}").format(sql.Identifier(setting), value))
        # Shared, so that a reconnect never waits for its own stale connection.
        cursor = await connection.execute("select pg_try_advisory_lock_shared(worker.pod_lock_key(%s))", [self.pod_id])
        (locked,) = await cursor.fetchone() or (False,)
        if not locked:  # a stranger holds it: without it, heartbeats show that this pod is alive
            log.warning("session.lock_taken", message="another login holds this pod's advisory lock")
        for channel in (QUEUE_CHANNEL, CANCEL_CHANNEL):
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        self.has_lock, self.listening = bool(locked), True
        await self.on_state()
        self.first_try.set()
        self.on_queue("")  # for jobs that arrived while this pod was not listening

    async def _publish_initial_state(self) -> None:
        if not self.first_try.is_set():
            await self.on_state()
            self.first_try.set()

    async def _listen(self, connection: OwnAsyncConnection) -> None:
        while True:
            async for notification in connection.notifies(timeout=IDLE_PROBE_EVERY_S):
                if notification.channel == QUEUE_CHANNEL:
                    self.on_queue(notification.payload)
                elif notification.channel == CANCEL_CHANNEL:
                    self.on_cancel(notification.payload)
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await connection.execute("select 1")
            except TimeoutError as error:
                raise psycopg.OperationalError("the session connection does not respond") from error

    def _log_failure(self, error: psycopg.Error) -> None:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if self._failures < len(BACKOFF_S) or self._failures % LOG_EVERY_N_FAILURES == 0:
            log.warning("session.lost", reason=reason[0], failures=self._failures)
        if password_refused(error) and not self._password_refusal_logged:
            self._password_refusal_logged = True
            log.error(
                "session.password_refused",
                message="password authentication failed, most likely because the password was changed",
                hint="restart this pod with the new DATABASE_URL, printed by worker role NAME --rotate",
            )

    def _log_unsupported(self) -> None:
        if not self._unsupported_logged:
            self._unsupported_logged = True
            log.error(
                "session.listen_unsupported",
                message="LISTEN does not work here: this pod polls every 2 s, and only its heartbeats show it is alive",
                hint=LISTEN_HINT,
            )

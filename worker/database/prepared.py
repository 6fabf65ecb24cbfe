"""Prepared statements, which save the planning of the claim and of every call, only where they can work.

A transaction-mode pooler may run each statement in another server process, which does not know what was prepared.
"""

from __future__ import annotations

from typing import Any

import psycopg

PREPARE_AFTER = 2
"""Executions of the same statement on one connection: one that is run once is not worth a round trip."""


async def prepare_where_direct(connection: psycopg.AsyncConnection[Any]) -> None:
    """Let a new connection prepare statements if it leads to the server itself.

    A pooler makes up the process id that it gives its clients, so the server's own differs.
    """
    direct = "select pg_backend_pid() = %s as direct"
    row = await (await connection.execute(direct, [connection.info.backend_pid])).fetchone()
    if row is not None and row["direct"]:
        connection.prepare_threshold = PREPARE_AFTER

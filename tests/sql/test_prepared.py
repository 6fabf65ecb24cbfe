"""Statements are prepared on a direct connection, not behind a pooler, and a change of the tables ends nothing."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.conftest import Databases
from tests.proxy import PostgresProxy
from tests.sql.pod import GENERATION, as_worker
from tests.sql.tables import AppTables
from worker.database.claim_queue import ClaimQueue
from worker.database.connections import PREPARE_AFTER
from worker.database.pool import POOL_SIZE, Database
from worker.database.transient import is_transient

PREPARED = "select statement from pg_prepared_statements where statement like %s"


async def until_both_are_open(database: Database) -> None:
    """Wait for both connections of the pool: they take turns from then on, so that each is used as often."""
    async with database.pooled(), database.pooled():
        pass


async def prepared(database: Database) -> int:
    """Ask the same several times; returns how many such statements a connection has prepared."""
    await until_both_are_open(database)
    for _ in range(POOL_SIZE * (PREPARE_AFTER + 1)):
        await database.call_once("schema_major")
    return len(await database.fetch(PREPARED, ["%schema_major%"]))


async def test_statements_are_prepared_on_a_direct_connection(db: AppTables) -> None:
    async with Database(as_worker(db.url), "pod") as database:
        assert await prepared(database) == 1


async def test_nothing_is_prepared_behind_a_pooler(databases: Databases, db: AppTables) -> None:
    with PostgresProxy(as_worker(db.url), invents_pids=True) as pooler:
        async with Database(pooler.url, "pod") as database:
            assert await prepared(database) == 0


async def test_a_prepared_claim_survives_a_change_of_the_queues_table(db: AppTables) -> None:
    async with Database(as_worker(db.url), "pod") as database:
        queue = ClaimQueue(database, uuid4())
        await until_both_are_open(database)
        for _ in range(POOL_SIZE * (PREPARE_AFTER + 1)):
            assert await queue.claim([GENERATION]) is None
        db.run("alter table worker.pgqueuer add column more integer")
        job = db.ask()
        for _ in range(POOL_SIZE):
            with pytest.raises(psycopg.Error) as raised:
                await queue.claim([GENERATION])
            assert is_transient(raised.value)  # the claim loop tries again
        assert await queue.claim([GENERATION]) == ("generation", job)

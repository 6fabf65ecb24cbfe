"""How many jobs one owner may have: the limit holds in every race, and no INSERT waits long for an open transaction."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.background import STUCK_AFTER_S, BackgroundCalls
from tests.sql.pod import Pod
from tests.sql.tables import AppTables

INSERT = "insert into public.generation_jobs (owner_id, prompt) select %s, 'the sea' from generate_series(1, %s)"
LEVELS = ["read committed", "repeatable read", "serializable"]


def limit(db: AppTables, open_jobs: int) -> None:
    db.run("update worker.config set open_jobs_per_owner = %s", open_jobs)


def open_jobs(db: AppTables) -> int:
    count: int = db.one(
        "select (select count(*) from public.generation_jobs where status in ('queued', 'running'))"
        " + (select count(*) from public.training_jobs where status in ('queued', 'running'))"
    )
    return count


def sqlstate(call: Callable[[], object]) -> str | None:
    """Return the SQLSTATE with which a statement failed, or None."""
    try:
        call()
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.mark.parametrize("level", LEVELS)
def test_inserts_at_once_never_exceed_the_limit(db: AppTables, level: str) -> None:
    limit(db, 5)
    clients = 6
    together = Barrier(clients)

    def insert_pairs(_: int) -> set[str | None]:
        with psycopg.connect(db.url) as connection:
            states = set()
            for _ in range(3):
                connection.execute(f"set transaction isolation level {level}")  # type: ignore[arg-type]
                connection.execute("select count(*) from public.generation_jobs")  # the snapshot
                together.wait(STUCK_AFTER_S)
                states.add(sqlstate(lambda: connection.execute(INSERT, [db.owner, 2])))
                connection.commit()
            return states

    with ThreadPoolExecutor(clients) as executor:
        states = set().union(*executor.map(insert_pairs, range(clients)))
    assert states == ({None, "PT429"} if level == "read committed" else {None, "PT429", "40001"})
    assert open_jobs(db) == 4


def test_an_older_snapshot_cannot_take_places_that_were_taken_since(
    db: AppTables, other_session: psycopg.Connection[Any]
) -> None:
    """Ten places where five are allowed: the count in the older snapshot lacks the other's jobs."""
    limit(db, 5)
    db.run(INSERT, db.owner, 1)
    other_session.execute("set transaction isolation level repeatable read")
    other_session.execute("select count(*) from public.generation_jobs")
    db.run(INSERT, db.owner, 4)
    with pytest.raises(psycopg.errors.SerializationFailure):
        other_session.execute(INSERT, [db.owner, 4])
    other_session.rollback()
    assert open_jobs(db) == 5


def test_an_owner_waits_two_seconds_at_most_for_a_transaction_left_open(
    db: AppTables, other_session: psycopg.Connection[Any], background: BackgroundCalls
) -> None:
    other_session.execute(INSERT, [db.owner, 1])
    stranger = db.add_user(uuid4())
    db.run(INSERT, stranger, 1)

    def insert(_: int) -> tuple[str | None, float]:
        with psycopg.connect(db.url, autocommit=True) as connection:
            began = time.monotonic()
            with pytest.raises(
                psycopg.Error, match="inserts or retries jobs of this owner is still open: waited 2 s"
            ) as refused:
                connection.execute(INSERT, [db.owner, 1])
            assert connection.execute("show lock_timeout").fetchone() == ("0",)
            return refused.value.sqlstate, time.monotonic() - began

    with ThreadPoolExecutor(3) as executor:
        answers = list(executor.map(insert, range(3)))
    assert {state for state, _ in answers} == {"PT429"}
    assert all(1.5 < seconds < STUCK_AFTER_S for _, seconds in answers)
    other_session.commit()
    db.run(INSERT, db.owner, 1)
    assert open_jobs(db) == 3


def test_a_clients_own_shorter_lock_timeout_is_reported_as_such(
    db: AppTables, other_session: psycopg.Connection[Any]
) -> None:
    other_session.execute(INSERT, [db.owner, 1])
    with psycopg.connect(db.url, autocommit=True) as client:
        client.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            client.execute(INSERT, [db.owner, 1])
        client.execute("set lock_timeout = '1min'")
        with pytest.raises(psycopg.Error, match="waited 2 s"):
            client.execute(INSERT, [db.owner, 1])
        assert client.execute("show lock_timeout").fetchone() == ("1min",)


def test_a_wait_for_another_lock_is_not_reported_as_the_owners(
    db: AppTables, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    other_session.execute("select from public.subjects where id = %s for update", [subject])
    with psycopg.connect(db.url, autocommit=True) as client:
        client.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            client.execute("insert into public.generation_jobs (subject_id, prompt) values (%s, 'x')", [subject])


def test_a_rolled_back_insert_takes_no_place(db: AppTables, other_session: psycopg.Connection[Any]) -> None:
    limit(db, 2)
    db.run(INSERT, db.owner, 1)
    other_session.execute(INSERT, [db.owner, 1])
    other_session.rollback()
    with other_session.transaction(), pytest.raises(psycopg.Error, match="at most 2"), other_session.transaction():
        other_session.execute(INSERT, [db.owner, 2])
    other_session.execute(INSERT, [db.owner, 1])
    other_session.commit()
    assert open_jobs(db) == 2


def test_jobs_that_ended_give_their_places_back(db: AppTables, pod: Pod) -> None:
    limit(db, 3)
    for _ in range(8):
        job = db.ask()
        db.run("select public.cancel_job('generation', %s)", job)
    db.run(INSERT, db.owner, 3)
    assert open_jobs(db) == 3
    assert sqlstate(lambda: db.run(INSERT, db.owner, 1)) == "PT429"


def test_the_limit_covers_all_kinds_and_follows_the_setting(db: AppTables) -> None:
    limit(db, 4)
    db.ask_training()
    db.run(INSERT, db.owner, 3)
    assert sqlstate(db.ask_training) == "PT429"
    limit(db, 5)
    db.ask_training()
    limit(db, 1)
    assert sqlstate(lambda: db.run(INSERT, db.owner, 1)) == "PT429"
    limit(db, 1_000_000)
    db.run(INSERT, db.owner, 1)


def test_one_statement_is_checked_for_each_owner(db: AppTables) -> None:
    limit(db, 3)
    mine, theirs = db.owner, db.add_user(uuid4())
    db.run(INSERT, theirs, 2)
    both = """insert into public.generation_jobs (owner_id, prompt)
              select owner, 'x' from unnest(%s::uuid[]) owner"""
    assert sqlstate(lambda: db.run(both, [mine, theirs, theirs])) == "PT429"
    db.run(both, [theirs, mine, mine])
    owners = db.run("select owner_id, count(*) from public.generation_jobs group by 1")
    assert {row["owner_id"]: row["count"] for row in owners} == {mine: 2, theirs: 3}


def test_statements_with_the_same_owners_in_any_order_do_not_deadlock(db: AppTables) -> None:
    owners = [db.add_user(uuid4()) for _ in range(5)]
    together = Barrier(2)

    def insert(order: list[UUID]) -> None:
        with psycopg.connect(db.url, autocommit=True) as connection:
            for _ in range(10):
                together.wait(STUCK_AFTER_S)
                connection.execute(
                    "insert into public.generation_jobs (owner_id, prompt) select owner, 'x' from unnest(%s) owner",
                    [order],
                )

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(insert, [owners, owners[::-1]]))
    assert open_jobs(db) == 100


# -- refusals


def test_retrying_refused_jobs_adds_no_more_to_the_ledger_than_inserting_them(db: AppTables, pod: Pod) -> None:
    """450 rows in 20 s: only INSERTs were counted, and each start of a retried job is refused again."""
    limit(db, 1)
    subject = db.add_subject(consent=False)
    job = db.request("generation", subject_id=subject, prompt="x")
    retry = "select public.retry_job('generation', %s)"
    with db.acting_as("authenticated", db.owner) as connection:
        for _ in range(9):
            connection.execute(retry, [job])
            assert pod.start(*pod.claim()) is None  # type: ignore[misc]
        with pytest.raises(psycopg.Error, match="too many refused requests: at most 10 an hour"):
            connection.execute(retry, [job])
    assert len(db.ledger(subject, "refusal")) == 10
    assert db.status("generation", job) == ("failed", "consent_denied")
    assert sqlstate(lambda: db.request("generation", subject_id=subject, prompt="x")) == "PT429"


def test_every_person_of_a_refused_job_counts(db: AppTables) -> None:
    limit(db, 1)
    people = [db.add_subject() for _ in range(3)]
    models = [db.add_lora(person) for person in people]
    for person in people:
        db.run("select public.revoke_consent(%s)", person)
    refusals = 0
    while sqlstate(lambda: db.request("generation", owner_id=db.owner, prompt="x", model_ids=models)) is None:
        refusals += 1
        assert refusals < 10
    assert db.one("select count(*) from worker.consent_events where event = 'refusal'") == refusals * 3 <= 12


def test_nothing_is_accepted_once_the_limit_of_refusals_is_reached(db: AppTables) -> None:
    """Otherwise an accepted request would say that its words are allowed."""
    limit(db, 1)
    for _ in range(10):
        db.request("generation", owner_id=db.owner, prompt="nude")
    for prompt in ("nude", "the sea"):
        assert sqlstate(lambda prompt=prompt: db.request("generation", owner_id=db.owner, prompt=prompt)) == "PT429"  # type: ignore[misc]
    with db.without_triggers():
        db.run("update public.generation_jobs set created_at = created_at - interval '2 hours'")
    db.request("generation", owner_id=db.owner, prompt="the sea")


def test_a_blocked_prompt_counts_whatever_its_user_does_with_the_job(db: AppTables) -> None:
    """Otherwise a user could try words without end: insert, retry, cancel."""
    db.run("update worker.config set open_jobs_per_owner = 1")
    with db.acting_as("authenticated", db.owner) as connection:
        for _ in range(10):
            row = connection.execute("insert into generation_jobs (prompt) values ('nude') returning id").fetchone()
            assert row is not None
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="blocked prompt cannot be retried"):
                connection.execute("select retry_job('generation', %s)", [row["id"]])
            connection.execute("select cancel_job('generation', %s)", [row["id"]])
        with pytest.raises(psycopg.Error, match="too many refused requests"):
            connection.execute("insert into generation_jobs (prompt) values ('nude')")
    blocked = db.one("select id from public.generation_jobs limit 1")
    assert db.one("select public.retry_job('generation', %s)", blocked) == "queued", "an administrator may"

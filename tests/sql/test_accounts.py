"""A deleted account inserts nothing more, and its deletion and an INSERT at the same time see each other."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.background import STUCK_AFTER_S, BackgroundCalls
from tests.sql.tables import AppTables

DELETE = "delete from auth.users where id = %s"


def statements(user: UUID, subject: UUID) -> dict[str, tuple[str, list[object]]]:
    """Return what a signed-in user may insert."""
    return {
        "a job about nobody": ("insert into generation_jobs (prompt) values ('the sea')", []),
        "a job about a person": ("insert into generation_jobs (subject_id, prompt) values (%s, 'x')", [subject]),
        "a person": ("insert into subjects (name) values ('Ada')", []),
        "a preset": ("insert into presets (name, kind) values ('p', 'generation')", []),
        "a photo": (
            "insert into subject_photos (subject_id, path) values (%s, %s)",
            [subject, f"{user}/{subject}/photos/9.jpg"],
        ),
    }


WHAT = list(statements(uuid4(), uuid4()))


@pytest.mark.parametrize(
    ("how", "what"), [*(("deleted", what) for what in WHAT), ("soft-deleted", WHAT[0]), ("soft-deleted", WHAT[-1])]
)
def test_the_token_of_a_deleted_account_inserts_nothing(db: AppTables, what: str, how: str) -> None:
    subject = db.add_subject()
    if how == "deleted":
        db.run(DELETE, db.owner)
    else:
        db.run("update auth.users set deleted_at = now() where id = %s", db.owner)
    before = db.snapshot()
    statement, arguments = statements(db.owner, subject)[what]
    with db.acting_as("authenticated", db.owner) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement, arguments)  # type: ignore[arg-type]
    assert db.snapshot() == before
    if how == "deleted":
        assert db.one("select count(*) from public.subjects where owner_id is not null") == 0


@pytest.mark.parametrize("how", [DELETE, "update auth.users set deleted_at = now() where id = %s"])
def test_the_token_of_a_deleted_account_retries_nothing(db: AppTables, how: str) -> None:
    job = db.request("generation", owner_id=db.owner, prompt="the sea", model_ids=[])
    with db.acting_as("authenticated", db.owner) as connection:
        connection.execute("select cancel_job('generation', %s)", [job])
        db.run(how, db.owner)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="account of this user was deleted"):
            connection.execute("select retry_job('generation', %s)", [job])
    assert db.status("generation", job) == ("cancelled", None)


@pytest.mark.parametrize("what", WHAT)
def test_an_insert_waits_for_the_deletion_of_its_account(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any], what: str
) -> None:
    statement, arguments = statements(db.owner, db.add_subject())[what]
    other_session.execute(DELETE, [db.owner])
    with db.acting_as("authenticated", db.owner) as connection:
        insert = background.start_blocked(connection, connection.execute, statement, arguments)  # type: ignore[arg-type]
        other_session.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            insert.result(STUCK_AFTER_S)


def test_the_deletion_of_an_account_waits_for_an_open_insert_and_then_stops_its_job(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    row = other_session.execute(
        "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x') returning id", [subject]
    ).fetchone()
    assert row is not None
    with psycopg.connect(db.url, autocommit=True) as administrator:
        deletion = background.start_blocked(administrator, administrator.execute, DELETE, [db.owner])
        other_session.commit()
        deletion.result(STUCK_AFTER_S)
    assert db.status("generation", row[0]) == ("failed", "consent_denied")


def test_the_service_keys_insert_about_a_person_waits_for_the_deletion_too(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any]
) -> None:
    subject = db.add_subject()
    other_session.execute(DELETE, [db.owner])
    with db.acting_as("service_role") as connection:
        insert = background.start_blocked(
            connection,
            connection.execute,
            "insert into generation_jobs (subject_id, prompt) values (%s, 'x') returning status, error_code",
            [subject],
        )
        other_session.commit()
        row = insert.result(STUCK_AFTER_S).fetchone()
    assert row == {"status": "failed", "error_code": "consent_denied"}


def test_the_service_key_may_name_an_owner_without_an_account(db: AppTables) -> None:
    """A backend with users of its own; about nobody, because people belong to accounts."""
    with db.acting_as("service_role") as connection:
        row = connection.execute(
            "insert into generation_jobs (owner_id, prompt) values (%s, 'the sea') returning status", [uuid4()]
        ).fetchone()
    assert row == {"status": "queued"}


def test_signing_in_does_not_wait_for_an_open_insert(db: AppTables, other_session: psycopg.Connection[Any]) -> None:
    """GoTrue updates the account's row at every sign-in."""
    db.run("alter table auth.users add column last_sign_in_at timestamptz")
    other_session.execute("insert into public.generation_jobs (owner_id, prompt) values (%s, 'x')", [db.owner])
    db.run("set lock_timeout = '1s'")
    db.run("update auth.users set last_sign_in_at = now() where id = %s", db.owner)

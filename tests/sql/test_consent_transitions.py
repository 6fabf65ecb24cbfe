"""Every transition of consent, each function against each state: a rejection stays until an administrator lifts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from tests.sql.background import STUCK_AFTER_S, BackgroundCalls
from tests.sql.pod import Pod
from tests.sql.tables import AppTables
from tests.waiting import wait_until

ATTEST = "select public.grant_consent(%s, confirmed => true, adult => true)"
GRANT = "select public.grant_consent(%s)"
REJECT = "select public.reject_consent(%s)"
REVOKE = "select public.revoke_consent(%s)"

ROWS_OF_THE_TABLE = {
    # from: (the owner attests, the service grants, rejects, the owner revokes, the service revokes, the account goes)
    "pending": ("approved", "approved", "rejected", "revoked", "revoked", "revoked"),
    "approved": ("approved", "approved", "rejected", "revoked", "revoked", "revoked"),
    "revoked": ("approved", "approved", "rejected", "revoked", "revoked", "revoked"),
    "rejected": ("refused", "approved", "rejected", "rejected", "rejected", "rejected"),
}
"""As in docs/consent.md, with `consent_mode = 'owner_attests'`."""


@pytest.fixture
def db(db: AppTables) -> AppTables:
    db.run("update worker.config set consent_mode = 'owner_attests'")
    return db


def status(db: AppTables, subject: UUID) -> str:
    return str(db.one("select consent_status from public.subjects where id = %s", subject))


def attest(db: AppTables, subject: UUID) -> str:
    """Grant as the subject's owner; returns the status then, or `refused`."""
    return as_owner(db, ATTEST, subject)


def as_owner(db: AppTables, statement: str, subject: UUID) -> str:
    with db.acting_as("authenticated", db.owner) as owner:
        try:
            owner.execute(statement, [subject])  # type: ignore[arg-type]
        except psycopg.errors.InsufficientPrivilege:
            return "refused"
    return status(db, subject)


def subject_in(db: AppTables, state: str) -> UUID:
    subject = db.add_subject(consent=state in ("approved", "revoked"))
    if state in ("revoked", "rejected"):
        db.run(REVOKE if state == "revoked" else REJECT, subject)
    return subject


def test_every_transition_is_that_of_the_table(db: AppTables) -> None:
    found = {}
    for state in ROWS_OF_THE_TABLE:
        ends = [attest(db, subject_in(db, state))]
        for statement in (GRANT, REJECT):
            subject = subject_in(db, state)
            db.run(statement, subject)
            ends.append(status(db, subject))
        ends.append(as_owner(db, REVOKE, subject_in(db, state)))
        subject = subject_in(db, state)
        db.run(REVOKE, subject)
        ends.append(status(db, subject))
        subject = subject_in(db, state)
        with db.database.transaction(force_rollback=True):
            db.run("delete from auth.users where id = %s", db.owner)
            ends.append(status(db, subject))
        found[state] = tuple(ends)
    assert found == ROWS_OF_THE_TABLE


def test_a_rejection_cannot_be_revoked_away(db: AppTables, pod: Pod) -> None:
    subject = subject_in(db, "rejected")
    for _ in range(2):
        assert as_owner(db, REVOKE, subject) == "rejected"
        assert attest(db, subject) == "refused"
    job = db.ask(subject_id=subject)
    assert db.status("generation", job) == ("failed", "consent_denied")
    assert [entry["event"] for entry in db.ledger(subject)] == ["reject", "refusal"]


def test_only_the_service_lifts_a_rejection_and_the_owner_may_attest_again_after_that(db: AppTables) -> None:
    subject = subject_in(db, "rejected")
    db.run(GRANT, subject)
    assert as_owner(db, REVOKE, subject) == "revoked"
    assert attest(db, subject) == "approved"


def test_a_rejection_outlives_the_row_and_the_status_that_an_earlier_release_left(db: AppTables) -> None:
    inserted_again, revoked_before = subject_in(db, "rejected"), subject_in(db, "rejected")
    db.run("delete from public.subjects where id = %s", inserted_again)
    with db.acting_as("authenticated", db.owner) as owner:
        owner.execute("insert into subjects (id, name, subject_is_adult) values (%s, 'x', true)", [inserted_again])
    with db.without_triggers():
        db.run("update public.subjects set consent_status = 'revoked' where id = %s", revoked_before)
    assert [attest(db, subject) for subject in (inserted_again, revoked_before)] == ["refused", "refused"]


def test_consent_without_an_end_is_null_and_not_infinity(db: AppTables) -> None:
    subject = subject_in(db, "pending")
    for never in ("infinity", "12026-01-01", "-infinity"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="before the year 9999"):
            db.run("select public.grant_consent(%s, expires_at => %s)", subject, never)
    assert status(db, subject) == "pending"


# -- every decision stands behind the lock


Session = psycopg.Connection[Any]


@pytest.fixture
def owner_session(db: AppTables) -> Any:
    with db.acting_as("authenticated", db.owner) as connection:
        yield connection


@pytest.mark.parametrize("began_as", ["pending", "approved", "revoked"])
def test_an_owners_grant_waits_for_an_open_rejection_and_obeys_it(
    db: AppTables, background: BackgroundCalls, other_session: Session, owner_session: Session, began_as: str
) -> None:
    for committed in (True, False):
        subject = subject_in(db, began_as)
        other_session.execute(REJECT, [subject])
        grant = background.start_blocked(owner_session, owner_session.execute, ATTEST, [subject])
        other_session.commit() if committed else other_session.rollback()
        if committed:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="did not consent"):
                grant.result(STUCK_AFTER_S)
        else:
            grant.result(STUCK_AFTER_S)
        assert status(db, subject) == ("rejected" if committed else "approved")


@pytest.mark.parametrize("role", ["authenticated", None])
def test_a_revocation_waits_for_an_open_rejection_and_leaves_it(
    db: AppTables, background: BackgroundCalls, other_session: Session, owner_session: Session, role: str | None
) -> None:
    subject = subject_in(db, "approved")
    other_session.execute(REJECT, [subject])
    with psycopg.connect(db.url, autocommit=True) as service:
        session = owner_session if role else service
        revocation = background.start_blocked(session, session.execute, REVOKE, [subject])
        other_session.commit()
        revocation.result(STUCK_AFTER_S)
    assert status(db, subject) == "rejected"
    assert attest(db, subject) == "refused"


def test_a_revocation_waits_for_an_open_grant_and_ends_it(
    db: AppTables, background: BackgroundCalls, other_session: Session, owner_session: Session
) -> None:
    subject = subject_in(db, "revoked")
    other_session.execute(GRANT, [subject])
    revocation = background.start_blocked(owner_session, owner_session.execute, REVOKE, [subject])
    other_session.commit()
    revocation.result(STUCK_AFTER_S)
    assert status(db, subject) == "revoked"
    assert [entry["event"] for entry in db.ledger(subject)][-1] == "revoke"


def erase(session: Session, subject: UUID) -> None:
    session.execute("update public.subjects set erased_at = now() where id = %s", [subject])


def delete_the_account(session: Session, subject: UUID) -> None:
    session.execute("delete from auth.users where id = (select owner_id from subjects where id = %s)", [subject])


def switch_to_administrators(session: Session, subject: UUID) -> None:
    session.execute("update worker.config set consent_mode = 'admin'")
    session.execute("select from public.subjects where id = %s for update", [subject])


@pytest.mark.parametrize("change", [erase, delete_the_account, switch_to_administrators])
def test_a_grant_sees_what_was_committed_while_it_waited(
    db: AppTables,
    background: BackgroundCalls,
    other_session: Session,
    owner_session: Session,
    change: Callable[[Session, UUID], None],
) -> None:
    for session in (owner_session, None):
        if session is None and change is switch_to_administrators:
            continue  # administrators grant in both modes
        subject = subject_in(db, "pending") if session else db.add_subject(consent=False, owner=db.add_user(uuid4()))
        change(other_session, subject)
        with psycopg.connect(db.url, autocommit=True) as service:
            caller = session or service
            grant = background.start_blocked(caller, caller.execute, ATTEST if session else GRANT, [subject])
            other_session.commit()
            with pytest.raises(psycopg.DatabaseError, match=r"erased|was deleted|not found|by an administrator"):
                grant.result(STUCK_AFTER_S)
        assert status(db, subject) in ("pending", "revoked")


def test_a_grant_whose_end_passes_while_it_waits_is_refused(
    db: AppTables, background: BackgroundCalls, other_session: Session
) -> None:
    subject = subject_in(db, "pending")
    other_session.execute("select from public.subjects where id = %s for update", [subject])
    ends = db.one("select clock_timestamp() + interval '300 milliseconds'")
    with psycopg.connect(db.url, autocommit=True) as service:
        soon = "select public.grant_consent(%s, expires_at => %s)"
        grant = background.start_blocked(service, service.execute, soon, [subject, ends])
        wait_until(lambda: db.one("select clock_timestamp() > %s", ends), "the grant's end to pass")
        other_session.commit()
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="in the future"):
            grant.result(STUCK_AFTER_S)
    assert status(db, subject) == "pending"


def test_an_expiry_leaves_a_consent_that_was_extended_meanwhile(
    db: AppTables, background: BackgroundCalls, other_session: Session
) -> None:
    subject = subject_in(db, "approved")
    db.let_consent_expire(subject)
    other_session.execute("select public.grant_consent(%s, expires_at => now() + interval '1 year')", [subject])
    assert db.one("select worker.expire_consent()") == 0, "it does not wait"
    other_session.commit()
    assert db.one("select worker.expire_consent()") == 0
    assert status(db, subject) == "approved"


# -- an account that was deleted softly: its row stays, with the time in deleted_at


def delete_softly(db: AppTables) -> None:
    db.run("update auth.users set deleted_at = now() where id = %s", db.owner)


def test_a_softly_deleted_account_has_no_consent_from_that_moment_on(db: AppTables, pod: Pod) -> None:
    subject, pending = subject_in(db, "approved"), subject_in(db, "pending")
    running = pod.run("generation", db.ask(subject_id=subject))
    result = running.staged_result()
    waiting = db.ask(subject_id=subject)
    delete_softly(db)
    late = db.ask(subject_id=subject)
    claim = pod.claim()
    assert claim == ("generation", waiting)
    assert pod.start(*claim) is None
    assert running.complete(result) == "consent_denied"
    for job in (late, waiting, running.id):
        assert db.status("generation", job) == ("failed", "consent_denied")
        assert db.job("generation", job)["error"] == "the account that owned the subject was deleted"
    assert as_owner(db, REVOKE, pending) == "revoked"
    for person in (subject, pending):
        for grant in (ATTEST, GRANT):
            with (
                db.acting_as("authenticated" if grant is ATTEST else "service_role", db.owner) as caller,
                pytest.raises(psycopg.errors.InvalidParameterValue, match="was deleted: insert a new subject"),
            ):
                caller.execute(grant, [person])


def test_the_tick_stops_what_runs_and_revokes(db: AppTables, pod: Pod) -> None:
    subject, pending, rejected = (subject_in(db, state) for state in ("approved", "pending", "rejected"))
    bystander = db.add_subject(owner=db.add_user(uuid4()))
    running, other = (pod.run("generation", db.ask(subject_id=person)) for person in (subject, bystander))
    db.tick()
    pod.heartbeat(running, other)
    delete_softly(db)
    db.tick()
    answer = pod.heartbeat(running, other)
    assert [lease["state"] for lease in answer["leases"]] == ["cancel", "ok"]
    held = [{"subject_id": str(person), "purpose": "generation"} for person in (subject, bystander)]
    assert pod.call("pod_heartbeat", pod.id, [], held)["ended"] == held[:1]
    db.tick()
    people = [subject, pending, rejected, bystander]
    assert [status(db, person) for person in people] == ["revoked", "revoked", "rejected", "approved"]
    for person in (subject, pending):
        (entry,) = db.ledger(person, "revoke")
        assert entry["reason"] == "the owner's account was deleted"


def test_the_tick_looks_at_everybody_in_turn(db: AppTables) -> None:
    people = 250
    db.run(
        "insert into public.subjects (owner_id, name) select %s, 'x' from generate_series(1, %s)",
        db.owner,
        people,
    )
    delete_softly(db)
    counts = [db.one("select worker.revoke_for_deleted_accounts()") for _ in range(5)]
    assert counts == [100, 100, 50, 0, 0]


def test_a_person_who_is_locked_is_left_for_the_next_round(db: AppTables, other_session: Session) -> None:
    subject = subject_in(db, "approved")
    delete_softly(db)
    other_session.execute("select from public.subjects where id = %s for update", [subject])
    assert db.one("select worker.revoke_for_deleted_accounts()") == 0
    other_session.rollback()
    assert [db.one("select worker.revoke_for_deleted_accounts()") for _ in range(2)] == [0, 1]


def test_accounts_without_a_time_of_deletion_are_live(db: AppTables) -> None:
    """As with the stubs of an earlier release."""
    subject = subject_in(db, "approved")
    db.run(sql.SQL("alter table auth.users drop column deleted_at").as_string(db.database))
    assert db.one("select worker.consent_error(%s, 'training')", subject) is None

"""Who can change consent, what the ledger records, and how losing consent stops every open job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.sql.pod import Attempt, Pod
from tests.sql.tables import ABLE_BASE, AppTables

IN_A_YEAR = datetime.now(UTC) + timedelta(days=365)


def consent(db: AppTables, subject: UUID) -> str:
    return str(db.one("select consent_status from public.subjects where id = %s", subject))


def refused(message: str = ".") -> AbstractContextManager[object]:
    return pytest.raises(psycopg.errors.InsufficientPrivilege, match=message)


def set_mode(db: AppTables, mode: str) -> None:
    db.run("update worker.config set consent_mode = %s", mode)


# -- who may grant, reject, revoke


@pytest.mark.parametrize("mode", ["admin", "owner_attests"])
def test_the_service_key_grants_rejects_and_revokes_in_both_modes(db: AppTables, mode: str) -> None:
    set_mode(db, mode)
    subject = db.add_subject(consent=False)
    with db.acting_as("service_role") as service:
        service.execute("select grant_consent(%s, '{generation}', %s, 'a signed form')", [subject, IN_A_YEAR])
        assert consent(db, subject) == "approved"
        service.execute("select revoke_consent(%s, 'by mail')", [subject])
        assert consent(db, subject) == "revoked"
        service.execute("select reject_consent(%s)", [subject])
        assert consent(db, subject) == "rejected"
    grant, revoke, reject = db.ledger(subject)
    assert (grant["event"], grant["purposes"], grant["expires_at"]) == ("grant", ["generation"], IN_A_YEAR)
    assert (revoke["event"], revoke["reason"], reject["event"]) == ("revoke", None, "reject")
    assert revoke["evidence_digest"] == hashlib.sha256(b"by mail").hexdigest(), "only a digest of the reason is stored"


def test_in_mode_admin_an_owner_cannot_grant(db: AppTables) -> None:
    subject = db.add_subject(consent=False)
    with db.acting_as("authenticated", db.owner) as owner, refused("granted by an administrator"):
        owner.execute("select grant_consent(%s, confirmed => true, adult => true)", [subject])
    assert consent(db, subject) == "pending"
    assert db.ledger(subject) == []


def test_in_mode_owner_attests_an_owner_must_state_both_for_a_subject_of_his_own(db: AppTables) -> None:
    set_mode(db, "owner_attests")
    mine = db.add_subject(consent=False, adult=False)
    theirs = db.add_subject(consent=False, owner=db.add_user(uuid4()))
    with db.acting_as("authenticated", db.owner) as owner:
        for half in ("", ", confirmed => true", ", adult => true", ", confirmed => null, adult => true"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="state both"):
                owner.execute(f"select grant_consent(%s{half})", [mine])  # type: ignore[arg-type]
        for unknown in (theirs, uuid4()):
            with refused("subject not found for this user"):
                owner.execute("select grant_consent(%s, confirmed => true, adult => true)", [unknown])
        assert (consent(db, mine), consent(db, theirs)) == ("pending", "pending")
        owner.execute("select grant_consent(%s, confirmed => true, adult => true)", [mine])
    assert consent(db, mine) == "approved"
    assert db.ledger(mine, "grant")[0]["actor"] == str(db.owner)


@pytest.mark.parametrize("mode", ["admin", "owner_attests"])
def test_an_owner_can_revoke_consent_in_both_modes_but_only_for_own_subjects(db: AppTables, mode: str) -> None:
    set_mode(db, mode)
    mine, theirs = db.add_subject(), db.add_subject(owner=db.add_user(uuid4()))
    with db.acting_as("authenticated", db.owner) as owner:
        for unknown in (theirs, uuid4()):
            with refused("subject not found for this user"):
                owner.execute("select revoke_consent(%s)", [unknown])
        owner.execute("select revoke_consent(%s, 'I asked')", [mine])
        with refused():
            owner.execute("select reject_consent(%s)", [mine])
    assert (consent(db, mine), consent(db, theirs)) == ("revoked", "approved")


def test_a_forged_role_claim_gives_no_rights(db: AppTables) -> None:
    subject = db.add_subject(consent=False)
    with db.acting_as("authenticated", db.owner) as owner:
        owner.execute(
            "select set_config('request.jwt.claims', %s, false)", [f'{{"role":"service_role","sub":"{db.owner}"}}']
        )
        for call in ("grant_consent(%s)", "worker.grant_consent_as_service(%s, '{training}', null, null, true, true)"):
            with refused():
                owner.execute(f"select {call}", [subject])  # type: ignore[arg-type]
    assert consent(db, subject) == "pending"


def test_in_mode_owner_attests_rejected_consent_cannot_be_granted(db: AppTables) -> None:
    set_mode(db, "owner_attests")
    subject = db.add_subject(consent=False)
    db.run("select public.reject_consent(%s)", subject)
    with db.acting_as("authenticated", db.owner) as owner, refused("did not consent"):
        owner.execute("select grant_consent(%s, confirmed => true, adult => true)", [subject])
    assert consent(db, subject) == "rejected"


def test_consent_changes_only_at_read_committed(db: AppTables) -> None:
    """At REPEATABLE READ a revocation would not see, and so not stop, jobs inserted after its transaction began."""
    subject = db.add_subject()
    for level in (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE):
        with psycopg.connect(db.url) as connection:
            connection.isolation_level = level
            with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="use READ COMMITTED"):
                connection.execute("select public.revoke_consent(%s)", [subject])
    assert consent(db, subject) == "approved"


def test_an_invalid_grant_is_refused(db: AppTables) -> None:
    subject, child = db.add_subject(consent=False), db.add_subject(consent=False, adult=False)
    for arguments in (
        (subject, [], None),
        (subject, ["sculpture"], None),
        (subject, None, None),
        (subject, [["training"], ["generation"]], None),
        (subject, ["training"], datetime.now(UTC) - timedelta(seconds=1)),
        (child, ["training"], None),
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            db.run("select public.grant_consent(%s, %s::text[], %s)", *arguments)
    with refused("not found"):
        db.run("select public.grant_consent(%s)", uuid4())
    assert {consent(db, subject), consent(db, child)} == {"pending"}


CHANGES = {
    "consent_status": "'revoked'",
    "consent_purposes": "'{training}'",
    "consent_expires_at": "now() + interval '1 day'",
    "subject_is_adult": "false",
    "owner_id": "gen_random_uuid()",
}


@pytest.mark.parametrize("role", [None, "authenticated", "service_role", "likeness_worker", "anon"])
def test_consent_columns_cannot_be_written_directly(db: AppTables, role: str | None) -> None:
    subject = db.add_subject()
    before = db.run("select * from public.subjects")
    for column, value in CHANGES.items():
        statement = f"update public.subjects set {column} = {value} where id = %s"
        if role is None:
            with refused():
                db.run(statement, subject)
            continue
        with db.acting_as(role, db.owner) as connection:
            connection.execute("set worker.changing_consent = 'yes'")
            with refused():
                connection.execute(statement, [subject])  # type: ignore[arg-type]
    assert db.run("select * from public.subjects") == before
    for column in ("consent_status", "consent_purposes", "consent_expires_at"):
        value = {"consent_status": "approved", "consent_purposes": ["training"]}.get(column, IN_A_YEAR)
        with refused():
            db.database.execute(
                sql.SQL(
                    "insert into public.subjects (owner_id, name, subject_is_adult, {}) values (%s, 'x', true, %s)"
                ).format(sql.Identifier(column)),
                [db.owner, value],
            )


# -- the ledger


def test_the_ledger_is_append_only_for_every_role(db: AppTables) -> None:
    subject = db.add_subject()
    before = db.ledger(subject)
    for statement in (
        "update worker.consent_events set reason = 'changed'",
        "delete from worker.consent_events",
        "truncate worker.consent_events",
    ):
        with refused("append-only"):
            db.run(statement)
        for role in ("authenticated", "service_role", "likeness_worker"):
            with db.acting_as(role, db.owner) as connection, refused():
                connection.execute(statement)  # type: ignore[arg-type]
    assert db.ledger(subject) == before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(evidence=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=200))
def test_the_ledger_stores_a_digest_of_the_evidence_and_no_name(db: AppTables, evidence: str) -> None:
    subject = db.add_subject(consent=False, name="Ada Personal-Name")
    db.run("select public.grant_consent(%s, evidence => %s)", subject, evidence)
    (entry,) = db.ledger(subject)
    assert entry.pop("evidence_digest") == hashlib.sha256(evidence.encode()).hexdigest()
    assert not any(value in (evidence, "Ada Personal-Name") for value in entry.values())


def test_revoking_twice_adds_one_entry_to_the_ledger(db: AppTables) -> None:
    subject = db.add_subject()
    for _ in range(2):
        db.run("select public.revoke_consent(%s)", subject)
    assert [entry["event"] for entry in db.ledger(subject)] == ["grant", "revoke"]


def test_the_ledger_survives_the_deletion_of_a_subject(db: AppTables) -> None:
    subject = db.add_subject()
    db.run("delete from public.subjects where id = %s", subject)
    assert len(db.ledger(subject)) == 1


# -- losing consent stops every open job


def revoke(db: AppTables, subject: UUID) -> None:
    db.run("select public.revoke_consent(%s)", subject)


def reject(db: AppTables, subject: UUID) -> None:
    db.run("select public.reject_consent(%s)", subject)


def expire(db: AppTables, subject: UUID) -> None:
    db.let_consent_expire(subject)
    db.tick()


def erase(db: AppTables, subject: UUID) -> None:
    db.run("update public.subjects set erased_at = now() where id = %s", subject)


def delete_the_account(db: AppTables, subject: UUID) -> None:
    db.run("delete from auth.users where id = (select owner_id from public.subjects where id = %s)", subject)


def agree_to_less(db: AppTables, subject: UUID) -> None:
    db.run("select public.grant_consent(%s, '{training}')", subject)


def two_people(db: AppTables, pod: Pod) -> tuple[UUID, UUID, Attempt, UUID]:
    """Ada, Ben, and two jobs of both: a running attempt that uses Ben's LoRA, and a queued job that uses his photo."""
    ada, ben = db.add_subject(name="Ada"), db.add_subject(name="Ben")
    running = db.request("generation", subject_id=ada, prompt="x", model_ids=[db.add_lora(ada), db.add_lora(ben)])
    attempt = pod.run("generation", running)
    attempt.staged_result()
    queued = db.request(
        "generation", subject_id=ada, prompt="x", base=ABLE_BASE, reference_paths=[f"{db.owner}/{ben}/photos/1.jpg"]
    )
    return ada, ben, attempt, queued


@pytest.mark.parametrize(
    ("loss", "who"),
    [
        *((loss, "the subject") for loss in (revoke, reject, expire, erase, delete_the_account, agree_to_less)),
        *((loss, "the other person") for loss in (revoke, expire)),
    ],
)
def test_losing_consent_fails_queued_jobs_and_stops_running_ones(
    db: AppTables, pod: Pod, loss: Callable[[AppTables, UUID], None], who: str
) -> None:
    ada, ben, attempt, queued = two_people(db, pod)
    bystander = db.add_subject(owner=db.add_user(uuid4()))
    untouched = db.request("generation", subject_id=bystander, prompt="x", model_ids=[])
    person = ada if who == "the subject" else ben
    pod.call("heartbeat", pod.id, [attempt.as_lease()])  # the next heartbeat reports subjects that ended since
    loss(db, person)

    assert db.status("generation", queued) == ("failed", "consent_denied")
    assert db.queue_row("generation", queued) is None
    assert db.ledger(person, "refusal")[-1]["job_id"] == queued
    running = db.job("generation", attempt.id)
    assert (running["status"], running["cancel_code"]) == ("running", "consent_denied")
    assert running["cancel_requested_at"] is not None
    answer = pod.call("heartbeat", pod.id, [attempt.as_lease()])  # as pods do that name no files
    assert [lease["state"] for lease in answer["leases"]] == ["cancel"]
    if loss not in (
        agree_to_less,
        erase,
    ):  # after these, some of the subject's files are kept or erased by a job of their own
        assert str(person) in answer["ended_subjects"]
    assert attempt.report() == "cancel"

    assert attempt.release() == "consent_denied"
    assert db.status("generation", attempt.id) == ("failed", "consent_denied")
    assert set(db.staged(attempt.id).values()) == {"deleting"}
    assert db.status("generation", untouched) == ("queued", None)


def complete(attempt: Attempt, result: dict[str, Any]) -> str:
    return attempt.complete(result)


def fail(attempt: Attempt, _: dict[str, Any]) -> str:
    return attempt.fail()


def release(attempt: Attempt, _: dict[str, Any]) -> str:
    return attempt.release()


@pytest.mark.parametrize("end", [complete, fail, release])
def test_a_revoked_attempt_ends_as_consent_denied_however_it_ends(
    db: AppTables, pod: Pod, end: Callable[[Attempt, dict[str, Any]], str]
) -> None:
    ada, _, attempt, _ = two_people(db, pod)
    result = attempt.result()
    revoke(db, ada)
    assert end(attempt, result) == "consent_denied"
    job = db.job("generation", attempt.id)
    assert (job["status"], job["error_code"], job["result"], job["gpu_seconds"]) == (
        "failed",
        "consent_denied",
        None,
        1,
    )
    assert job["error"] == "the person revoked consent"
    assert db.queue_row("generation", attempt.id) is None
    assert set(db.staged(attempt.id).values()) == {"deleting"}
    assert {entry["job_id"] for entry in db.ledger(ada, "refusal")} >= {attempt.id}


def test_a_revocation_overrides_a_cancellation_in_either_order(db: AppTables, pod: Pod) -> None:
    for first, second in (("revoke", "cancel"), ("cancel", "revoke")):
        subject = db.add_subject()
        attempt = pod.run("generation", db.request("generation", subject_id=subject, prompt="x", model_ids=[]))
        for step in (first, second):
            if step == "revoke":
                revoke(db, subject)
            else:
                db.run("select public.cancel_job('generation', %s)", attempt.id)
        assert attempt.release() == "consent_denied"


def test_granting_consent_again_does_not_resume_stopped_jobs(db: AppTables, pod: Pod) -> None:
    ada, _, attempt, queued = two_people(db, pod)
    revoke(db, ada)
    db.run("select public.grant_consent(%s)", ada)
    assert attempt.complete(attempt.result()) == "consent_denied"
    assert db.status("generation", queued) == ("failed", "consent_denied")
    assert db.one("select public.retry_job('generation', %s)", attempt.id) == "queued"
    assert pod.run("generation", attempt.id).publish() == "ok"


def test_consent_expires_on_time_and_the_tick_records_it(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    waiting = db.request("generation", subject_id=subject, prompt="x", model_ids=[])
    claim = pod.claim()
    assert claim == ("generation", waiting)
    db.let_consent_expire(subject)
    # No tick has recorded it: start_job itself compares the time.
    assert pod.start(*claim) is None
    assert db.status("generation", waiting) == ("failed", "consent_denied")
    assert db.job("generation", waiting)["error"] == "the person's consent has expired"
    assert consent(db, subject) == "approved"
    db.tick()
    assert consent(db, subject) == "revoked"
    assert [entry["event"] for entry in db.ledger(subject)] == ["grant", "refusal", "expiry"]
    db.tick()
    assert len(db.ledger(subject, "expiry")) == 1


def test_consent_that_expires_between_start_and_publication_stops_the_publication(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    attempt = pod.run("generation", db.request("generation", subject_id=subject, prompt="x", model_ids=[]))
    result = attempt.staged_result()
    db.let_consent_expire(subject)  # without a tick, no stop is requested
    assert attempt.complete(result) == "consent_denied"
    assert db.status("generation", attempt.id) == ("failed", "consent_denied")
    assert set(db.staged(attempt.id).values()) == {"deleting"}


def test_deleting_an_account_keeps_its_rows_and_revokes_every_consent(db: AppTables, pod: Pod) -> None:
    subjects = [db.add_subject(), db.add_subject(consent=False)]
    job = db.request("generation", subject_id=subjects[0], prompt="x", model_ids=[])
    db.run("delete from auth.users where id = %s", db.owner)
    for subject in subjects:
        assert consent(db, subject) == "revoked"
        assert db.ledger(subject, "revoke")[0]["reason"] == "the owner's account was deleted"
    assert db.job("generation", job)["owner_id"] == db.owner, "erasure needs the owner"
    assert pod.claim() is None

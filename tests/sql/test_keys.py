"""Checks of object keys that clients name: the only ones, because the worker's key bypasses row-level security."""

from __future__ import annotations

import posixpath
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sql.pod import Pod
from tests.sql.tables import ABLE_BASE, AppTables

MUST_BEGIN_WITH_THE_OWNER = "must begin with the owner's id"
NOT_A_SUBJECT_OF_THIS_OWNER = "must be under {owner_id}/{subject_id}/ of a subject of the same owner"
NOT_A_PLAIN_KEY = "is not a plain key such as {owner_id}/{subject_id}/photos/1.jpg"


def request(db: AppTables, column: str, key: str | None, subject: UUID) -> UUID:
    """Request a job of db.owner that names one key, on a base that supports it."""
    if column == "sample_paths":
        photos = db.add_photos(subject, 2)
        return db.request("training", subject_id=subject, base=ABLE_BASE, sample_paths=[*photos, key])
    named: dict[str, Any] = {"reference_paths": [key]}
    if column == "control_path":
        named = {"control_path": key, "control_kind": "pose"}
    return db.request("generation", subject_id=subject, base=ABLE_BASE, prompt="x", **named)


def refusal(db: AppTables, column: str, key: str | None, subject: UUID) -> str:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught, db.database.transaction(force_rollback=True):
        request(db, column, key, subject)
    message = caught.value.diag.message_primary or ""
    assert message.startswith(f"{column}: ")
    return message


COLUMNS = ("sample_paths", "reference_paths", "control_path")


@pytest.mark.parametrize("column", COLUMNS)
def test_keys_of_another_owner_are_refused(db: AppTables, column: str) -> None:
    mine, stranger = db.add_subject(), db.add_user(uuid4())
    theirs = db.add_subject(owner=stranger)
    assert MUST_BEGIN_WITH_THE_OWNER in refusal(db, column, f"{stranger}/{theirs}/photos/1.jpg", mine)
    assert MUST_BEGIN_WITH_THE_OWNER in refusal(db, column, f"{stranger}/_/inputs/1.jpg", mine)
    for unusable in (theirs, uuid4()):
        assert NOT_A_SUBJECT_OF_THIS_OWNER in refusal(db, column, f"{db.owner}/{unusable}/photos/1.jpg", mine)


MALFORMED = {
    "empty": "",
    "a file name alone": "1.jpg",
    "no file name": "{owner}/{subject}/photos/",
    "too short": "{owner}/{subject}/1.jpg",
    "absolute": "/{owner}/{subject}/photos/1.jpg",
    "a scheme": "s3://{owner}/{subject}/photos/1.jpg",
    "a parent folder": "{owner}/{subject}/photos/../../../x/1.jpg",
    "a parent folder at the end": "{owner}/{subject}/photos/..",
    "the same folder": "{owner}/{subject}/photos/./1.jpg",
    "a double slash": "{owner}/{subject}//photos/1.jpg",
    "a backslash": "{owner}/{subject}/photos\\..\\1.jpg",
    "an escape": "{owner}/{subject}/photos/%2e%2e/1.jpg",
    "a newline": "{owner}/{subject}/photos/1.jpg\n",
    "a query": "{owner}/{subject}/photos/1.jpg?versionId=1",
    "an umlaut": "{owner}/{subject}/photos/ä.jpg",
    "a control character": "{owner}/{subject}/photos/\x7f.jpg",
    "too long": "{owner}/{subject}/photos/" + "x" * 900,
}


@pytest.mark.parametrize("column", COLUMNS)
def test_malformed_keys_are_refused(db: AppTables, column: str) -> None:
    subject = db.add_subject()
    for name, key in MALFORMED.items():
        assert NOT_A_PLAIN_KEY in refusal(db, column, key.format(owner=db.owner, subject=subject), subject), name
    for upper in (f"{str(db.owner).upper()}/{subject}/photos/1.jpg", f"{db.owner}/{str(subject).upper()}/photos/1.jpg"):
        if upper.lower() != upper:
            assert " must " in refusal(db, column, upper, subject)
    if column != "control_path":
        assert NOT_A_PLAIN_KEY in refusal(db, column, None, subject)


def test_a_training_accepts_only_photos_of_its_own_subject(db: AppTables) -> None:
    ada, ben = db.add_subject(), db.add_subject()
    for key in (f"{db.owner}/{ben}/photos/1.jpg", f"{db.owner}/{ada}/other/1.jpg"):
        assert "photos/ of the job's own subject" in refusal(db, "sample_paths", key, ada)


def test_inputs_without_a_subject_are_accepted_only_as_poses(db: AppTables) -> None:
    subject, chair = db.add_subject(), f"{db.owner}/_/inputs/chair.png"
    for column in ("sample_paths", "reference_paths"):
        assert "pictures of people always need one" in refusal(db, column, chair, subject)
    assert db.job_subjects("generation", request(db, "control_path", chair, subject)) == {subject}


@pytest.mark.parametrize("column", ["reference_paths", "control_path"])
def test_the_subject_of_a_named_picture_must_consent(db: AppTables, column: str) -> None:
    ada, ben = db.add_subject(), db.add_subject()
    job = request(db, column, f"{db.owner}/{ben}/photos/1.jpg", ada)
    assert db.job_subjects("generation", job) == {ada, ben}
    assert db.status("generation", job) == ("queued", None)
    db.run("select public.revoke_consent(%s)", ben)
    assert db.status("generation", job) == ("failed", "consent_denied")
    again = request(db, column, f"{db.owner}/{ben}/photos/1.jpg", ada)
    assert db.status("generation", again) == ("failed", "consent_denied")


def test_a_generated_picture_adds_all_its_subjects(db: AppTables, pod: Pod) -> None:
    ada, ben, cem = (db.add_subject(name=name) for name in ("Ada", "Ben", "Cem"))
    db.request("generation", owner_id=db.owner, prompt="two friends", model_ids=[db.add_lora(ada), db.add_lora(ben)])
    attempt = pod.start(*pod.claim())  # type: ignore[misc]
    assert attempt is not None
    picture = attempt.staged_result()["pictures"][0]["upscaled"]
    assert picture.startswith(f"{db.owner}/_/generated/")
    assert "is not a picture of a completed job" in refusal(db, "control_path", picture, cem)
    assert attempt.complete(attempt.result()) == "ok"

    job = request(db, "control_path", picture, cem)
    assert db.job_subjects("generation", job) == {ada, ben, cem}
    db.run("select public.revoke_consent(%s)", ben)
    assert db.status("generation", job) == ("failed", "consent_denied")
    # As a reference it would be a picture of people without a subject.
    assert "pictures of people always need one" in refusal(db, "reference_paths", picture, cem)


def test_a_key_cannot_name_another_owners_job(db: AppTables, pod: Pod) -> None:
    stranger = db.add_user(uuid4())
    theirs = db.add_subject(owner=stranger)
    db.add_lora(theirs)
    job = db.request("generation", subject_id=theirs, prompt="x")
    assert pod.run("generation", job).publish() == "ok"
    mine = db.add_subject()
    for folder in ("_", str(mine)):
        key = f"{db.owner}/{folder}/generated/{job}/1/0.png"
        assert "is not a picture of a completed job of this owner" in refusal(db, "control_path", key, mine)
    assert MUST_BEGIN_WITH_THE_OWNER in refusal(
        db, "control_path", f"{stranger}/{theirs}/generated/{job}/1/0.png", mine
    )


def test_photos_are_registered_only_under_their_own_subject(db: AppTables) -> None:
    mine, other = db.add_subject(), db.add_subject()
    stranger = db.add_user(uuid4())
    theirs = db.add_subject(owner=stranger)
    insert = "insert into public.subject_photos (subject_id, path) values (%s, %s)"
    with db.acting_as("authenticated", db.owner) as connection:
        for key in (
            f"{db.owner}/{other}/photos/1.jpg",
            f"{stranger}/{theirs}/photos/1.jpg",
            f"{db.owner}/{mine}/generated/1.jpg",
            f"{db.owner}/{mine}/photos/../1.jpg",
        ):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"^path: "):
                connection.execute(insert, [mine, key])
        for unknown in (theirs, uuid4()):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="subject_id: subject not found"):
                connection.execute(insert, [unknown, f"{stranger}/{theirs}/photos/1.jpg"])
        connection.execute(insert, [mine, f"{db.owner}/{mine}/photos/1.jpg"])
    with db.acting_as("service_role") as connection, pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute("update subject_photos set path = %s", [f"{stranger}/{theirs}/photos/1.jpg"])


# Keys of valid and invalid parts, and of arbitrary text.
PARTS = st.sampled_from(
    ["{me}", "{mine}", "{them}", "{theirs}", "_", "inputs", "photos", "generated", "{job}", "1", "..", ".", "", "a.png"]
)
KEYS = st.one_of(
    st.lists(PARTS, min_size=1, max_size=8).map("/".join),
    st.tuples(PARTS, st.sampled_from(["{mine}", "_"]), st.sampled_from(["photos", "inputs"]), st.just("a.png")).map(
        "/".join
    ),
    st.lists(PARTS, max_size=5).map(lambda parts: "/".join(["{me}", "{mine}", *parts])),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00{}"), max_size=40).map("{{me}}/{{mine}}/{}".format),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00{}"), max_size=40),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(template=KEYS, inputs_allowed=st.booleans())
def test_no_accepted_key_leaves_the_owners_prefix(db: AppTables, template: str, inputs_allowed: bool) -> None:
    ids = _ids(db)
    key = template.format(**ids)
    if db.one("select worker.key_error(%s, %s, %s)", ids["me"], key, inputs_allowed) is None:
        assert posixpath.normpath(key) == key
        owner, folder, kind = key.split("/")[:3]
        assert owner == str(ids["me"])
        assert folder == str(ids["mine"]) or (inputs_allowed and folder == "_" and kind == "inputs")
        assert key.isascii()
        assert key.isprintable()
        assert db.one("select worker.key_subject(%s)", key) == (None if folder == "_" else ids["mine"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text("abcXYZ019._ ()+@=,-", min_size=1, max_size=60).filter(lambda name: name not in (".", "..")))
def test_ordinary_names_under_the_owners_prefix_are_accepted(db: AppTables, name: str) -> None:
    ids = _ids(db)
    assert (
        db.one("select worker.key_error(%s, %s, false)", ids["me"], f"{ids['me']}/{ids['mine']}/photos/{name}") is None
    )


def _ids(db: AppTables) -> dict[str, UUID]:
    """Two owners with a subject each, added once for all examples of a test."""
    subjects = db.run("select id, owner_id from public.subjects order by created_at")
    if not subjects:
        db.add_subject()
        db.add_subject(owner=db.add_user(uuid4()))
        return _ids(db)
    (mine, theirs), job = subjects, UUID(int=1)
    return {"me": mine["owner_id"], "mine": mine["id"], "them": theirs["owner_id"], "theirs": theirs["id"], "job": job}

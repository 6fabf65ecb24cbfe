"""INSERTs into mesh_jobs as apps make them: what is refused, how, and who is asked."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.pod import Pod
from tests.sql.tables import ABLE_BASE, AppTables
from tests.sql.test_requests import insert, refusal
from tests.tiny_models import TINY_BASE
from worker.guard.fetch import MAX_URL_LENGTH

URL = "https://shop.example/mug.png"


def key(db: AppTables, folder: object = "_", name: str = "inputs/mug.png") -> str:
    return f"{db.owner}/{folder}/{name}"


def test_a_picture_is_enough_and_needs_no_person(db: AppTables) -> None:
    row = insert(db, "mesh", image_urls=[URL])
    assert (row["status"], row["base"], row["owner_id"]) == ("queued", "triposr", db.owner)
    assert (row["quality"], row["format"], row["texture"], row["max_faces"]) == ("balanced", "glb", "vertex", None)
    assert row["metadata"] == {}
    queued = db.queue_row("mesh", row["id"])
    assert queued is not None
    assert queued["entrypoint"] == "mesh/triposr"
    assert db.job_subjects("mesh", row["id"]) == set()


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"quality": "fast"}, "23514", "either_image_urls_or_image_paths"),
    ({"image_urls": [URL], "image_paths": ["x"]}, "22023", "image_paths: 'x' is not a plain key"),
    ({"image_urls": []}, "23514", "image_urls_1_to_4"),
    ({"image_urls": [URL] * 5}, "23514", "image_urls_1_to_4"),
    ({"image_urls": [[URL], [URL]]}, "22023", "image_urls: number 1 is not an https URL"),
    ({"image_urls": [URL, None]}, "22023", "image_urls: number 2 is not an https URL"),
    ({"image_urls": [URL, "ftp://shop.example/x"]}, "22023", "image_urls: number 2 is not an https URL"),
    ({"image_urls": ["file:///etc/passwd"]}, "22023", "image_urls: number 1 is not an https URL"),
    ({"image_urls": ["https://user:secret@shop.example/x"]}, "22023", "number 1 is not an https URL"),
    ({"image_urls": ["https://shop.example/a b"]}, "22023", "number 1 is not an https URL"),
    ({"image_urls": [f"{URL}?{'a' * MAX_URL_LENGTH}"]}, "22023", f"of up to {MAX_URL_LENGTH} characters"),
    ({"image_urls": [URL], "quality": "best"}, "23514", "quality_is_fast_balanced_or_quality"),
    ({"image_urls": [URL], "format": "fbx"}, "23514", "format_is_glb_obj_or_stl"),
    ({"image_urls": [URL], "texture": "none"}, "23514", "texture_is_vertex_or_baked"),
    ({"image_urls": [URL], "texture": "baked", "format": "stl"}, "23514", "stl_has_no_texture_to_bake"),
    ({"image_urls": [URL], "max_faces": 99}, "23514", "max_faces_between_100_and_1000000"),
    ({"image_urls": [URL], "metadata": Jsonb([])}, "23514", "metadata_is_an_object_of_up_to_16000_bytes"),
    ({"image_urls": [URL], "metadata": Jsonb({"a": "b" * 16000})}, "23514", "metadata_is_an_object_of_up_to_16000"),
    ({"image_urls": [URL], "base": ABLE_BASE}, "22023", f"base: {ABLE_BASE} cannot do mesh; it can do "),
    ({"image_urls": [URL], "base": "nothing"}, "22023", "base: 'nothing' not found"),
]


def test_a_request_that_cannot_be_done_is_refused_by_name(db: AppTables) -> None:
    for columns, state, expected in REFUSED:
        sqlstate, message = refusal(db, "mesh", **columns)
        assert (sqlstate, expected in message) == (state, True), message
        assert "secret" not in message


def test_metadata_is_kept_as_given(db: AppTables) -> None:
    metadata = {"shop": "mugs.example", "titles": {"de": "Tasse", "en": "Mug"}, "variant": 7}
    assert insert(db, "mesh", image_urls=[URL], metadata=Jsonb(metadata))["metadata"] == metadata


def test_other_kinds_cannot_use_the_model_of_meshes(db: AppTables) -> None:
    assert refusal(db, "generation", prompt="a mug", base="triposr") == (
        "22023",
        "base: triposr can do nothing but mesh",
    )
    code, message = refusal(db, "training", subject_id=db.add_subject(), base="triposr")
    assert (code, message) == ("22023", "base: triposr cannot do train; it can do mesh")


def test_a_pod_offers_the_model_for_meshes_alone(db: AppTables) -> None:
    offered = "select worker.usable_routes(%s, %s, 80) as routes"
    reach = ["triposr", TINY_BASE]
    assert db.one(offered, "mesh", reach) == ["mesh/triposr"]
    assert db.one(offered, "generation", reach) == [f"generation/{TINY_BASE}"]
    assert db.one(offered, "training", reach) == [f"training/{TINY_BASE}"]
    assert db.one(offered, "mesh", [TINY_BASE]) == []


def test_a_model_for_one_capability_alone_must_have_it(db: AppTables) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="only_for_is_one_of_its_capabilities"):
        db.run("update worker.base_models set only_for = 'train' where slug = 'triposr'")


# -- people


def test_a_picture_under_nobody_needs_no_consent_and_one_under_a_person_does(db: AppTables) -> None:
    person, pending = db.add_subject(), db.add_subject(consent=False)
    allowed = insert(db, "mesh", image_paths=[key(db), key(db, person, "photos/1.jpg")])
    assert allowed["status"] == "queued"
    assert db.job_subjects("mesh", allowed["id"]) == {person}
    denied = insert(db, "mesh", image_paths=[key(db), key(db, pending, "photos/1.jpg")])
    assert (denied["status"], denied["error_code"]) == ("failed", "consent_denied")


def test_a_row_with_a_subject_is_checked_like_any_other(db: AppTables) -> None:
    assert insert(db, "mesh", subject_id=db.add_subject(), image_urls=[URL])["status"] == "queued"
    denied = insert(db, "mesh", subject_id=db.add_subject(consent=False), image_urls=[URL])
    assert (denied["status"], denied["error_code"]) == ("failed", "consent_denied")


def test_a_revocation_ends_the_jobs_whose_pictures_show_the_person(db: AppTables) -> None:
    person = db.add_subject()
    row = insert(db, "mesh", image_paths=[key(db, person, "photos/1.jpg")])
    db.run("select public.revoke_consent(%s)", person)
    assert db.job("mesh", row["id"])["error_code"] == "consent_denied"


def test_pictures_of_others_are_refused(db: AppTables) -> None:
    other = db.add_user(uuid4())
    theirs = db.add_subject(owner=other)
    for path in (f"{other}/_/inputs/mug.png", f"{other}/{theirs}/photos/1.jpg", key(db, theirs, "photos/1.jpg")):
        sqlstate, message = refusal(db, "mesh", image_paths=[path])
        assert sqlstate == "22023"
        assert message.startswith("image_paths: ")


def test_a_url_of_a_persons_picture_is_no_way_around_consent(db: AppTables) -> None:
    """A signed URL of a photo that the app stores."""
    for owner in (db.owner, db.add_user(uuid4())):
        person = str(db.add_subject(owner=owner, consent=False)).upper()
        signed = f"https://x.supabase.co/storage/v1/object/sign/uploads/{owner}/{person}/photos/1.jpg?token=t"
        assert refusal(db, "mesh", image_urls=[URL, signed]) == (
            "22023",
            "image_urls: number 2 is a picture of a subject: name its key instead, so that consent is checked",
        )
    assert insert(db, "mesh", image_urls=[f"https://cdn.example/{uuid4()}/{uuid4()}/mug.png"])["status"] == "queued"


@pytest.mark.parametrize("hyphen", ["%2D", "%2d", "%252D"])
def test_nor_is_a_url_that_spells_it_otherwise(db: AppTables, hyphen: str) -> None:
    """A server reads %2D as a hyphen; some read it twice."""
    person = str(db.add_subject(consent=False)).replace("-", hyphen)
    signed = f"https://x.supabase.co/storage/v1/object/sign/uploads/{db.owner}/{person}/photos/1.jpg?token=100%"
    assert refusal(db, "mesh", image_urls=[signed])[1].startswith("image_urls: number 1 is a picture of a subject")
    assert insert(db, "mesh", image_urls=["https://shop.example/100%25%00%zz%/%C3%A4.png"])["status"] == "queued"


def test_nor_is_a_url_of_a_picture_that_a_job_drew_of_her(db: AppTables, pod: Pod) -> None:
    """Without a subject its key names nobody: the LoRA shows whom it is of."""
    person = db.add_subject()
    job = db.request("generation", owner_id=db.owner, model_ids=[db.add_lora(person)], prompt="at the sea")
    assert pod.claim() == ("generation", job)
    attempt = pod.start("generation", job)
    assert attempt is not None
    assert attempt.publish() == "ok"
    drawn = db.job("generation", job)["result"]["pictures"][0]["upscaled"]
    assert str(person) not in drawn
    signed = f"https://x.supabase.co/storage/v1/object/sign/uploads/{drawn}?token=t"
    assert refusal(db, "mesh", image_urls=[signed])[1].startswith("image_urls: number 1 is a picture of a subject")

"""Photos as control pictures: their detectors are part of the route, and people in them must consent."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from tests.sql.pod import Pod
from tests.sql.tables import AppTables
from tests.sql.test_guides import row

POSE, DEPTH = "vitpose-base-simple", "depth-anything-v2-small"


def ask(db: AppTables, key: str, kind: str = "pose", base: str = "sd15", control_from: str | None = "photo") -> UUID:
    return db.request(
        "generation",
        owner_id=db.owner,
        base=base,
        model_ids=[],
        prompt="a garden",
        control_path=key,
        control_kind=kind,
        control_from=control_from,
    )


def photo(db: AppTables) -> str:
    return f"{db.owner}/{db.add_subject()}/photos/0.jpg"


def test_the_route_of_a_job_names_the_detector_that_it_needs(db: AppTables) -> None:
    key, thing = photo(db), f"{db.owner}/_/inputs/chair.jpg"
    assert row(db, ask(db, key)) == {
        "guides": ["controlnet-pose-sd15", POSE],
        "route": f"generation/sd15+controlnet-pose-sd15+{POSE}",
    }
    assert row(db, ask(db, thing, "depth", "z-image-turbo"))["guides"] == ["controlnet-union-z-image", DEPTH]
    assert row(db, ask(db, thing, "canny"))["guides"] == ["controlnet-canny-sd15"]
    for finished in ("map", None):
        assert row(db, ask(db, thing, control_from=finished))["guides"] == ["controlnet-pose-sd15"]


def test_a_photo_whose_pose_is_found_is_of_a_person_who_consents(db: AppTables) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"control_path: .* must be under a subject"):
        ask(db, f"{db.owner}/_/inputs/dancer.jpg")
    person = db.add_subject(consent=False)
    for kind in ("pose", "depth"):
        refused = db.job("generation", ask(db, f"{db.owner}/{person}/photos/0.jpg", kind))
        assert (refused["status"], refused["error_code"]) == ("failed", "consent_denied")
    person = db.add_subject()
    assert db.job_subjects("generation", ask(db, f"{db.owner}/{person}/photos/0.jpg")) == {person}


def test_what_a_photo_is_for_must_be_said(db: AppTables) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="generation_jobs_control_from_with_control_path"):
        db.request("generation", owner_id=db.owner, base="sd15", model_ids=[], prompt="x", control_from="photo")


def test_without_a_registered_detector_a_photo_is_refused(db: AppTables) -> None:
    key = photo(db)
    db.run("delete from worker.guides where slug = %s", POSE)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="base: sd15 cannot do detect:pose"):
        ask(db, key)


def test_a_pod_offers_detectors_beside_the_guides_that_read_their_maps(db: AppTables, pod: Pod) -> None:
    models = ["sd15", "klein", "controlnet-pose-sd15", "controlnet-canny-sd15", "ip-adapter-sd15", POSE, DEPTH]
    offered = {route.partition("/")[2] for route in pod.call("usable_routes", "generation", models, 100)}
    assert {route for route in offered if POSE in route or DEPTH in route} == {
        f"sd15+controlnet-pose-sd15+{POSE}",
        f"sd15+controlnet-pose-sd15+ip-adapter-sd15+{POSE}",
    }
    assert {"sd15", "klein", "sd15+controlnet-pose-sd15", "sd15+controlnet-canny-sd15"} < offered


def test_a_job_whose_detector_no_pod_has_waits_and_says_why(db: AppTables, pod: Pod) -> None:
    job = ask(db, photo(db))
    db.run("update worker.pods set models_present = '{sd15,controlnet-pose-sd15}', vram_gib = 24, routes = '{}'")
    db.tick()
    why = f"no pod has {POSE}: worker models pull --as {POSE}, then worker models push {POSE}"
    assert db.job("generation", job)["phase"] == f"waiting: no live pod can take this: {why}"
    db.run("update worker.pods set vram_gib = 1")
    assert "0 more" not in db.one("select worker.why_stranded(%s)", row(db, job)["route"])


def test_a_started_job_says_what_makes_the_map(db: AppTables, start_pod: object) -> None:
    route = f"generation/sd15+controlnet-pose-sd15+{POSE}"
    pod = start_pod(routes=(route,))  # type: ignore[operator]
    ask(db, photo(db))
    (kind, claimed) = pod.claim(route)
    (control,) = pod.call("start_job", kind, claimed, pod.id)["inputs"]["guides"]
    assert (control["guide"], control["detector"]) == ("controlnet-pose-sd15", POSE)

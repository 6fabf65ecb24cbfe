"""Guides of a job: chosen at INSERT, part of its route, offered by pods that have them and the memory for them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.pod import Pod
from tests.sql.tables import AppTables

MODELS = ["sd15", "ip-adapter-sd15", "controlnet-pose-sd15", "controlnet-canny-sd15", "klein"]


def ask(db: AppTables, base: str = "sd15", **columns: object) -> UUID:
    subject = db.add_subject()
    keys = {
        name: [f"{db.owner}/{subject}/photos/0.jpg"] if name == "reference_paths" else value
        for name, value in columns.items()
    }
    return db.request("generation", owner_id=db.owner, base=base, model_ids=[], prompt="a garden", **keys)


def row(db: AppTables, job: UUID) -> dict[str, Any]:
    """Return the guides of a job and the route that it is queued under."""
    (found,) = db.run(
        """select job.guides, queue.entrypoint as route from public.generation_jobs job
           join worker.pgqueuer queue on queue.dedupe_key = 'generation:' || job.id where job.id = %s""",
        job,
    )
    return found


REFERENCE = {"reference_paths": ["a photo of a person"]}


def pose(db: AppTables) -> dict[str, object]:
    return {"control_path": f"{db.owner}/_/inputs/pose.png", "control_kind": "pose"}


def test_the_route_of_a_job_names_the_guides_that_it_needs(db: AppTables) -> None:
    assert row(db, ask(db)) == {"guides": None, "route": "generation/sd15"}
    assert row(db, ask(db, **REFERENCE))["route"] == "generation/sd15+ip-adapter-sd15"
    assert row(db, ask(db, **pose(db), **REFERENCE)) == {
        "guides": ["controlnet-pose-sd15", "ip-adapter-sd15"],
        "route": "generation/sd15+controlnet-pose-sd15+ip-adapter-sd15",
    }
    # One network for several kinds, and references that the base model reads itself.
    assert row(db, ask(db, "sdxl", **pose(db)))["guides"] == ["controlnet-union-sdxl"]
    assert row(db, ask(db, "klein", **REFERENCE)) == {"guides": None, "route": "generation/klein"}


def test_of_two_guides_for_the_same_the_more_specific_is_chosen_and_a_job_keeps_its_own(
    db: AppTables, pod: Pod
) -> None:
    earlier = ask(db, "sdxl", **pose(db))
    db.run("insert into worker.guides values ('my-poses', 'sdxl', '{control:pose}', 2, 'mine', true)")
    assert row(db, ask(db, "sdxl", **pose(db)))["guides"] == ["my-poses"]
    db.run("delete from worker.guides where slug like 'controlnet-union%%'")
    db.run("update public.generation_jobs set priority = 5 where id = %s", earlier)
    kept = row(db, earlier)
    assert kept == {"guides": ["controlnet-union-sdxl"], "route": "generation/sdxl+controlnet-union-sdxl"}
    why = "guide controlnet-union-sdxl is not in worker.guides any more: insert it again, or cancel the job"
    assert db.one("select worker.why_stranded(%s)", kept["route"]) == why


def test_a_client_does_not_choose_the_guides(db: AppTables) -> None:
    job = db.request("generation", owner_id=db.owner, base="sd15", model_ids=[], prompt="x", guides=["ip-adapter-sd15"])
    assert row(db, job) == {"guides": None, "route": "generation/sd15"}
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.run("update public.generation_jobs set guides = '{ip-adapter-sd15}' where id = %s", job)


def test_a_pod_offers_each_choice_of_guides_that_it_has_and_that_fit_together(db: AppTables, pod: Pod) -> None:
    def offered(models: list[str], vram_gib: float, kind: str = "generation") -> set[str]:
        return {route.partition("/")[2] for route in pod.call("usable_routes", kind, models, vram_gib)}

    plain, reference = "sd15", "sd15+ip-adapter-sd15"
    controls = {"sd15+controlnet-canny-sd15", "sd15+controlnet-pose-sd15"}
    both = {f"{control}+ip-adapter-sd15" for control in controls}
    assert offered(MODELS, 100) == {plain, reference, "klein", *controls, *both}
    assert offered(MODELS, 4.4) == {plain}
    assert offered(MODELS, 5.2) == {plain, "klein", *controls}
    assert offered(MODELS, 6.3) == {plain, reference, "klein", *controls}  # not both: 4 + 1 + 1.4
    assert offered(["sd15"], 100) == {plain}
    assert offered(["ip-adapter-sd15", "sdxl"], 100) == {"sdxl"}
    assert offered(MODELS, 100, "training") == {plain}


@pytest.mark.parametrize(
    ("present", "vram_gib", "why"),
    [
        (["sd15"], 24, "no pod has controlnet-pose-sd15: worker models pull --as controlnet-pose-sd15, then"),
        (MODELS, 4.5, "sd15 needs 6 GiB of free GPU memory to train, 4 to generate, and controlnet-pose-sd15 1 more,"),
        (["controlnet-pose-sd15", "ip-adapter-sd15"], 24, "sd15 not found on a live pod or in the bucket"),
        (MODELS, 24, "the pods that have sd15 do not offer generation/sd15+"),
    ],
)
def test_a_job_whose_guides_no_pod_has_waits_and_says_why(
    db: AppTables, pod: Pod, present: list[str], vram_gib: float, why: str
) -> None:
    waiting, plain = ask(db, **pose(db), **REFERENCE), ask(db)
    db.run("update worker.pods set routes = '{generation/sd15}', models_present = %s, vram_gib = %s", present, vram_gib)
    db.tick()
    phases = {job: db.job("generation", job)["phase"] for job in (waiting, plain)}
    assert phases[plain] == "waiting"
    assert phases[waiting].startswith(f"waiting: no live pod can take this: {why}")
    db.run("update worker.pods set routes = %s", [row(db, waiting)["route"], "generation/sd15"])
    db.tick()
    assert db.job("generation", waiting)["phase"] == "waiting"


def test_guides_that_are_on_different_pods_are_said_to_be(db: AppTables, start_pod: Any) -> None:
    ask(db, **pose(db), **REFERENCE)
    for models in (["sd15", "ip-adapter-sd15"], ["controlnet-pose-sd15"]):
        other = start_pod(routes=("generation/sd15",))
        db.run("update worker.pods set models_present = %s, vram_gib = 24 where id = %s", models, other.id)
    why = db.one("select worker.why_stranded('generation/sd15+controlnet-pose-sd15+ip-adapter-sd15')")
    assert why.startswith("no pod has sd15 and controlnet-pose-sd15 and ip-adapter-sd15 together")


def test_a_started_job_says_what_steers_it(db: AppTables, start_pod: Any) -> None:
    route = "generation/sd15+controlnet-pose-sd15+ip-adapter-sd15"
    pod = start_pod(routes=(route,))
    job = ask(db, **pose(db), **REFERENCE, reference_scale=0.5, control_start=0.1, control_end=0.75)
    (kind, claimed) = pod.claim(route)
    started = pod.call("start_job", kind, claimed, pod.id)
    assert started["route"] == route
    reference, control = started["inputs"]["guides"]
    assert reference == {
        "capability": "reference",
        "guide": "ip-adapter-sd15",
        "scale": 0.5,
        "start": 0,
        "end": 1,
        "paths": db.job("generation", job)["reference_paths"],
        "urls": [],
    }
    assert control == {
        "capability": "control:pose",
        "guide": "controlnet-pose-sd15",
        "detector": None,
        "scale": 1,
        "start": 0.1,
        "end": 0.75,
        "paths": [f"{db.owner}/_/inputs/pose.png"],
    }


EMPTY_WINDOWS = [
    ({"control_start": 0.5, "control_end": 0.5}, "control_start_before_control_end"),
    ({"control_start": 0.8, "control_end": 0.2}, "control_start_before_control_end"),
    ({"control_end": 0}, "control_start_before_control_end"),
    ({"control_start": 1}, "control_start_before_control_end"),
    ({"control_start": -0.1}, "control_start_between_0_and_1"),
    ({"control_end": float("nan")}, "control_end_between_0_and_1"),
]


def test_an_empty_window_of_steps_is_refused(db: AppTables) -> None:
    for window, constraint in EMPTY_WINDOWS:
        with pytest.raises(psycopg.errors.CheckViolation, match=f"generation_jobs_{constraint}"):
            ask(db, **pose(db), **window)


def test_waiting_references_are_prefetched_only_where_they_show_one_person(db: AppTables, start_pod: Any) -> None:
    pod = start_pod(routes=("generation/sd15+ip-adapter-sd15", "generation/sd15+controlnet-pose-sd15"))
    with_reference, with_pose = ask(db, **REFERENCE), ask(db, **pose(db))
    waiting = {job["id"]: job for job in pod.call("peek", list(pod.routes), 10)}
    assert waiting[str(with_reference)]["guides"] == ["ip-adapter-sd15"]
    assert waiting[str(with_reference)]["inputs"]["pictures"] == db.job("generation", with_reference)["reference_paths"]
    assert waiting[str(with_pose)]["inputs"]["pictures"] == []

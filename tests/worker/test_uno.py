"""UNO through the whole pipeline, and the cache of results: from an INSERT to a published picture, and again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.worker.fleet import Fleet
from tests.worker.pictures import picture, png
from tests.worker.studio import Studio


@pytest.fixture(scope="module")
def fleet(studio: Studio) -> Fleet:
    """Its pod's tiny base and tiny LoRA of UNO stand for FLUX.1 [dev] and the published one."""
    return studio.fleet


@pytest.fixture
def ask(fleet: Fleet, studio: Studio) -> Any:
    def ask(subject: UUID, *names: str, **columns: object) -> UUID:
        urls = [f"http://{studio.shop}/{name}" for name in names or ("mug.png",)]
        request = {"base": "uno", "subject_id": subject, "seed": 3, "width": 64, "height": 64, "steps": 2, "upscale": 2}
        return fleet.draw(**{**request, "prompt": "a mug on a beach", "reference_urls": urls, **columns})

    return ask


def stored(fleet: Fleet, result: dict[str, Any]) -> list[bytes]:
    return [
        fleet.app.read(fleet.app.uploads, item[name]) for item in result["pictures"] for name in ("upscaled", "raw")
    ]


def test_references_by_url_give_a_picture_and_the_same_again_comes_from_storage(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    first = fleet.completed("generation", ask(subject, "mug.png", "shelf.png"))
    (guide,) = first["result"]["guides"]
    assert (guide["guide"], guide["used"], first["result"]["base"]) == ("uno-lora", True, "uno")
    assert "cached_from" not in first["result"]
    assert first["gpu_seconds"] > 0

    again = fleet.completed("generation", ask(subject, "mug.png?size=large", "shelf.png"))
    assert again["result"]["cached_from"] == str(first["id"])
    assert again["gpu_seconds"] == 0
    assert (again["finished_at"] - again["started_at"]).total_seconds() < 1
    assert stored(fleet, again["result"]) == stored(fleet, first["result"])
    assert all(str(again["id"]) in item[name] for item in again["result"]["pictures"] for name in ("upscaled", "raw"))

    # Deleting one job's pictures leaves the other's; the copy answers the next request.
    fleet.app.s3.delete_object(Bucket=fleet.app.uploads, Key=first["result"]["pictures"][0]["raw"])
    fleet.app.run("delete from worker.staged_objects where job_id = %s", first["id"])
    third = fleet.completed("generation", ask(subject, "mug.png", "shelf.png"))
    assert third["result"]["cached_from"] == str(again["id"])


def test_a_copied_answer_names_its_own_references(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    keys = [f"{fleet.app.owner}/{subject}/references/{name}.png" for name in ("mug", "the same mug")]
    for key in keys:
        fleet.app.s3.put_object(Bucket=fleet.app.uploads, Key=key, Body=png(picture(1)))
    first, again = (
        fleet.completed("generation", ask(subject, reference_paths=[key], reference_urls=None)) for key in keys
    )
    assert again["result"]["cached_from"] == str(first["id"])
    assert [job["result"]["guides"][0]["paths"] for job in (first, again)] == [[key] for key in keys]


def test_every_difference_draws_anew(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    fleet.completed("generation", ask(subject))
    changes: list[dict[str, object]] = [
        {"seed": 4},
        {"guidance": 3},
        {"prompt": "a mug in the snow"},
        {"quality": 80, "output_format": "webp"},
        {"subject_id": fleet.app.add_subject()},
        {"cache": False},
    ]
    jobs = [ask(subject, **change) for change in changes] + [ask(subject, "shelf.png")]
    results = [fleet.completed("generation", job)["result"] for job in jobs]
    assert [result.get("cached_from") for result in results] == [None] * len(jobs)


def test_an_app_may_have_deleted_what_would_have_been_copied(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    first = fleet.completed("generation", ask(subject))["result"]
    fleet.app.s3.delete_object(Bucket=fleet.app.uploads, Key=first["pictures"][0]["upscaled"])
    second = fleet.completed("generation", ask(subject))["result"]
    assert "cached_from" not in second
    assert stored(fleet, second)


@pytest.mark.parametrize(
    ("name", "code", "error"),
    [
        ("gone.png?token=secret", "input_missing", "reference 1: 127.0.0.1 does not have it (404)"),
        ("page?token=secret", "invalid_input", "a web page, not a picture"),
    ],
)
def test_a_url_that_gives_no_picture_fails_the_job_and_is_not_repeated(
    fleet: Fleet, ask: Any, name: str, code: str, error: str
) -> None:
    job = fleet.app.wait_for("generation", ask(fleet.app.add_subject(), name))
    assert (job["status"], job["error_code"]) == ("failed", code)
    assert error in job["error"]
    assert "secret" not in job["error"]

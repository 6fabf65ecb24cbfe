"""Unusable photos are named with the reason, and the training continues while three are left."""

from __future__ import annotations

import io
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from tests.app import small_jpeg
from tests.worker.fleet import Fleet
from tests.worker.studio import Studio


@pytest.fixture(scope="module")
def fleet(studio: Studio) -> Fleet:
    return studio.fleet


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


GOOD = {
    "fine.txt": small_jpeg(1),  # the content counts, not the name
    "print.jpg": encoded(Image.new("CMYK", (96, 80), (200, 40, 40, 0)), "JPEG"),
    "scan.png": encoded(Image.fromarray(np.full((96, 80), 40_000, dtype=np.uint16)), "PNG"),
}
BAD = {
    "bomb.png": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too large (400 megapixels, at most 134)"),
    "cut.jpg": (small_jpeg(2)[:900], "damaged or cut off"),
    "empty.heic": (b"", "empty"),
    "huge.jpg": (small_jpeg(3), "too large (312 MB, at most 200)"),
    "icon.png": (encoded(Image.new("RGB", (32, 32)), "PNG"), "too small (32 x 32, at least 64 pixels a side)"),
    "lost.jpg": (None, "missing"),
    "page.pdf": (b"%PDF-1.7", "not a photo (JPEG, PNG, HEIC, AVIF, WebP, TIFF, GIF, BMP or JPEG 2000)"),
}


def person_with(fleet: Fleet, photos: dict[str, bytes | None]) -> tuple[UUID, dict[str, str]]:
    """Add a subject with consent and these photos; returns it and their keys. A photo that is None is not uploaded."""
    app, subject = fleet.app, fleet.app.add_subject()
    keys = {name: f"{app.owner}/{subject}/photos/{name}" for name in photos}
    for name, content in photos.items():
        if content is not None:
            app.s3.put_object(Bucket=app.uploads, Key=keys[name], Body=content)
        app.run("insert into public.subject_photos (subject_id, path) values (%s, %s)", subject, keys[name])
    return subject, keys


def phases(fleet: Fleet, job_id: UUID) -> list[str]:
    rows = fleet.app.run(
        "select detail ->> 'phase' as phase from worker.job_events where job_id = %s and event = 'phase' order by id",
        job_id,
    )
    return [row["phase"] for row in rows]


def test_a_training_continues_without_unusable_photos_and_names_each_with_its_reason(
    fleet: Fleet, studio: Studio
) -> None:
    subject, keys = person_with(fleet, {**GOOD, **{name: content for name, (content, _) in BAD.items()}})
    job_id = fleet.train(subject_id=subject)
    job = fleet.completed("training", job_id)
    assert job["result"]["skipped_photos"] == [
        {"path": keys[name], "reason": reason} for name, (_, reason) in BAD.items()
    ]
    assert job["result"]["metrics"]["photos"] == len(GOOD)
    assert studio.store.downloads == 0
    phase = next(phase for phase in phases(fleet, job_id) if "cannot be used" in phase)
    assert phase.startswith("7 of 10 photos cannot be used: bomb.png is too large (400 megapixels, at most 134), cut")


def test_a_training_enlarges_photos_that_are_too_small_and_names_them(fleet: Fleet) -> None:
    large = {f"large-{number}.jpg": encoded(Image.new("RGB", (300, 400)), "JPEG") for number in range(2)}
    subject, keys = person_with(fleet, {**large, "small.jpg": small_jpeg(1)})
    job_id = fleet.train(subject_id=subject, resolution=128)
    result = fleet.completed("training", job_id)["result"]
    assert result["enlarged_photos"] == [keys["small.jpg"]]
    assert result["skipped_photos"] == []
    assert result["settings"]["resolutions"] == [128]
    assert "1 of 3 photos were too small for 128 x 128 and enlarged: small.jpg" in phases(fleet, job_id)


def test_a_training_with_two_usable_photos_fails_and_names_the_unusable_ones(fleet: Fleet) -> None:
    good = dict(list(GOOD.items())[:2])
    bad = {name: BAD[name][0] for name in ("cut.jpg", "huge.jpg", "lost.jpg")}
    subject, _ = person_with(fleet, {**good, **bad})
    job = fleet.app.wait_for("training", fleet.train(subject_id=subject))
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "invalid_input", 1)
    assert job["error"] == (
        "training needs at least 3 usable photos, but there are 2: "
        "cut.jpg is damaged or cut off, huge.jpg is too large (312 MB, at most 200), lost.jpg is missing"
    )


def test_a_training_with_two_photos_in_storage_fails_and_names_the_missing_ones(fleet: Fleet) -> None:
    lost = {f"lost-{number}.jpg": None for number in range(7)}
    subject, _ = person_with(fleet, {"a.jpg": small_jpeg(1), "b.jpg": small_jpeg(2), **lost})
    job = fleet.app.wait_for("training", fleet.train(subject_id=subject))
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "input_missing", 1)
    assert job["error"] == (
        "training needs at least 3 photos, and of 9 only 2 are in storage: "
        "upload lost-0.jpg, lost-1.jpg, lost-2.jpg, lost-3.jpg, lost-4.jpg and 2 more, or name others"
    )


def test_the_preserved_class_is_a_person_unless_the_request_names_another(fleet: Fleet) -> None:
    subject = fleet.person()
    lora = {
        name: fleet.completed("training", fleet.train(subject_id=subject, steps=16, seed=1, class_name=name))["result"]
        for name in (None, "a person", "a mug")
    }
    assert lora[None]["sha256"] == lora["a person"]["sha256"] != lora["a mug"]["sha256"]
    assert lora[None]["skipped_photos"] == []
    assert [result["settings"]["class_name"] for result in lora.values()] == ["a person", "a person", "a mug"]

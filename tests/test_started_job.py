"""What a handler reads of a started job: defaults for empty columns, and unreadable jobs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from worker.errors import InternalError, InvalidInput
from worker.handlers.generation import GenerationRequest
from worker.handlers.training import TrainingRequest
from worker.jobs.started_job import StartedJob

JOB_ID = UUID("6a050000-0000-4000-8000-00010000002a")


def payload(row: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the answer of `worker.start_job` for a job with these columns."""
    return {
        "kind": "training",
        "id": str(JOB_ID),
        "attempt": 1,
        "route": "training/flux-dev",
        "purpose": "training",
        "subjects": [],
        "subject": None,
        "base": None,
        "preset": None,
        "inputs": {"photos": [], "loras": [], "min_photos": 3},
        "checkpoint": None,
        "prefix": "p/",
        "job": row,
        **more,
    }


def base(**defaults: Any) -> dict[str, Any]:
    return {"slug": "flux-dev", "family": "flux", "licence": "none", "defaults": defaults}


def test_the_request_overrides_the_base_and_the_rest_is_left_to_the_family() -> None:
    row = {"steps": 7, "rank": None, "status": "running"}
    job = StartedJob.read(payload(row, base=base(steps=28, training={"steps": 5, "rank": 4, "batch_size": 2})))
    request = TrainingRequest.of(job)
    assert (request.steps, request.rank, request.batch_size, request.learning_rate) == (7, 4, 2, None)
    assert GenerationRequest.of(job).steps == 7
    assert GenerationRequest.of(StartedJob.read(payload({}, base=base(steps=28)))).steps == 28


def test_every_attempt_of_a_job_without_a_seed_uses_the_same_seed() -> None:
    first, second = (StartedJob.read(payload({"seed": None}, attempt=attempt)) for attempt in (1, 2))
    seeds = {request.of(job).seed for job in (first, second) for request in (TrainingRequest, GenerationRequest)}
    assert seeds == {JOB_ID.int % 2**32}
    assert GenerationRequest.of(StartedJob.read(payload({"seed": 0}))).seed == 0


@pytest.mark.parametrize(
    ("requested", "subject", "used"),
    [("ohwx", "ada", "ohwx"), (None, "ada", "ada"), (None, None, "ohwx")],
)
def test_the_trigger_word_comes_from_the_request_or_the_subject(
    requested: str | None, subject: str | None, used: str
) -> None:
    person = {"id": str(JOB_ID), "trigger_word": subject}
    request = TrainingRequest.of(StartedJob.read(payload({"trigger_word": requested}, subject=person)))
    assert (request.trigger_word, request.class_name) == (used, "a person")


def test_columns_of_a_later_schema_are_ignored() -> None:
    photo = {"path": "a/b/photos/1.jpg", "caption": None, "depth": 3}
    job = StartedJob.read(payload({"later": True}, later=1, inputs={"photos": [photo], "min_photos": 5, "later": 1}))
    inputs = TrainingRequest.of(job).inputs
    assert ([photo.path for photo in inputs.photos], inputs.min_photos) == (["a/b/photos/1.jpg"], 5)


def test_a_job_that_this_release_cannot_read_fails_as_internal_without_quoting_it() -> None:
    with pytest.raises(InternalError, match=r"^this worker cannot read the job: attempt \(int_parsing\)$"):
        StartedJob.read(payload({}, attempt="of Ada"))
    job = StartedJob.read(payload({"steps": "of Ada"}, inputs={"photos": [{"caption": "Ada"}], "min_photos": 3}))
    with pytest.raises(InternalError) as caught:
        TrainingRequest.of(job)
    expected = "this worker cannot read the job: steps (int_parsing), inputs.photos.0.path (missing)"
    assert caught.value.message == expected


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", float("inf"), float("nan")])
def test_a_number_that_is_not_finite_is_invalid_input(value: object) -> None:
    """As JSON from Postgres has it, or from a base model's defaults."""
    lora = {"id": str(JOB_ID), "path": "p", "sha256": "0" * 64, "subject_id": None, "version": 1, "rank": 4}
    inputs = {"loras": [{**lora, "trigger_word": None, "scale": 1.0}]}
    for job in (
        StartedJob.read(payload({"guidance": value}, inputs=inputs)),
        StartedJob.read(payload({}, inputs=inputs, base=base(guidance=value))),
        StartedJob.read(payload({}, inputs={"loras": [{**inputs["loras"][0], "scale": value}]})),
    ):
        with pytest.raises(InvalidInput, match=r"^this worker cannot read the job: .*\(finite_number\)$"):
            GenerationRequest.of(job)

"""Jobs of every kind are screened again when they start, before anything is downloaded."""

from __future__ import annotations

import pytest

from tests.prompts import examples
from tests.worker.fleet import Fleet
from tests.worker.studio import Studio
from worker.errors import PromptBlocked
from worker.guard import prompts, screening
from worker.jobs.started_job import StartedJob
from worker.kinds import load_kinds


@pytest.fixture(scope="module")
def fleet(studio: Studio) -> Fleet:
    return studio.fleet


def test_a_blocked_prompt_that_the_insert_allowed_fails_before_any_download(fleet: Fleet) -> None:
    app = fleet.app
    drawing = fleet.draw(prompt="a n|u|d|e on a sofa", run_after="tomorrow")
    subject = fleet.person()
    training = fleet.train(subject_id=subject, run_after="tomorrow")
    app.run("update public.subject_photos set caption = 'n4ked, by a window' where subject_id = %s", subject)
    refused = fleet.draw(prompt="nude", run_after="tomorrow")
    assert app.job("generation", refused)["error_code"] == "prompt_blocked"
    app.run("select public.retry_job('generation', %s)", refused)
    assert {app.job("generation", job)["status"] for job in (drawing, refused)} == {"queued"}
    for kind in ("generation", "training"):
        app.run(f"update public.{kind}_jobs set run_after = null where id = any(%s)", [drawing, training, refused])
    for kind, job_id, error in [
        ("generation", drawing, "the prompt asks for nudity (rule sexual-1); change it and insert another job"),
        ("generation", refused, "the prompt asks for nudity (rule sexual-1); change it and insert another job"),
        (
            "training",
            training,
            "the caption of 0.jpg asks for nudity (rule sexual-1); change it and insert another job",
        ),
    ]:
        job = app.wait_for(kind, job_id)
        assert (job["status"], job["error_code"], job["error"]) == ("failed", "prompt_blocked", error)
        assert (job["attempt"], job["failures"], job["gpu_seconds"]) == (1, 1, 0), "it is not retried"
        assert "phase" not in app.events(job_id), "nothing was downloaded"
        assert fleet.stored(job_id) == set()
    log = fleet.workers[0].log_path.read_text()
    assert "n|u|d|e" not in log
    assert "n4ked" not in log
    assert fleet.completed("generation", fleet.draw(prompt="a person in a public park"))


def started(kind: str, row: dict[str, object], inputs: dict[str, object] | None = None, **more: object) -> StartedJob:
    """Return a started job as the database describes it."""
    return StartedJob.model_validate(
        {
            "kind": kind,
            "id": "00000000-0000-0000-0000-000000000001",
            "attempt": 1,
            "route": kind,
            "purpose": "generation",
            "subjects": [],
            "subject": None,
            "base": None,
            "preset": None,
            "inputs": {"photos": [], "loras": [], "min_photos": 3, **(inputs or {})},
            "checkpoint": None,
            "prefix": "",
            "job": row,
            **more,
        }
    )


KINDS, _ = load_kinds()


def require(job: StartedJob) -> None:
    """Screen a job as the worker does before running it."""
    prompts.require(KINDS[job.kind].texts(job))


def test_words_are_screened_as_the_model_reads_them() -> None:
    lora = {"id": "00000000-0000-0000-0000-000000000002", "subject_id": None, "version": 1, "path": "x", "sha256": "x"}
    lora_named_young = {**lora, "rank": 1, "trigger_word": "young", "scale": 1.0}
    photo = {"path": "owner/subject/photos/7.jpg", "caption": "little ohwx on a beach"}
    ada = {"id": "00000000-0000-0000-0000-000000000003", "trigger_word": "ohwx"}
    training = {"trigger_word": None, "class_name": None}
    without_trigger_word = {
        "subject": {**ada, "trigger_word": None},
        "inputs": {"photos": [{**photo, "caption": "little ohwx on a beach"}], "min_photos": 3},
    }
    require(started("training", training, **without_trigger_word))
    with pytest.raises(PromptBlocked, match="a child"):  # the word used instead is part of the class caption too
        require(started("training", {**training, "class_name": "girl"}, **without_trigger_word))
    for what, job in {
        "the prompt": started(
            "generation", {"prompt": "girl at sea", "negative_prompt": None}, inputs={"loras": [lora_named_young]}
        ),
        "the negative prompt": started("generation", {"prompt": "", "negative_prompt": "adult"}),
        "the trigger word": started("training", {**training, "trigger_word": "kid"}, subject=ada),
        "the class name": started("training", {**training, "class_name": "a child"}, subject=ada),
        "the caption of 7.jpg": started(
            "training", {**training, "class_name": "girl"}, subject=ada, inputs={"photos": [photo], "min_photos": 3}
        ),
    }.items():
        with pytest.raises(PromptBlocked, match=f"^{what} asks for "):
            require(job)
    require(started("training", training, subject=ada, inputs={"photos": [photo], "min_photos": 3}))
    require(started("publish_lora", {"payload": {}}, subject={**ada, "trigger_word": "kid"}))


def test_the_message_depends_only_on_the_rule() -> None:
    messages = set()
    for example in examples():
        if example.category:
            with pytest.raises(PromptBlocked) as caught:
                require(started("generation", {"prompt": "", "negative_prompt": "", example.kind: example.text}))
            messages.add(caught.value.message)
    assert len(messages) <= len(screening.rules())

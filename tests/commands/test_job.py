"""`worker job`: one job in full with the next step, and retrying or cancelling it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import boto3
import pytest
from rich.console import Console

from tests.app import App
from tests.commands.conftest import Operator
from tests.sql.pod import GENERATION, Claims, Pod
from tests.sql.tables import AppTables
from worker.commands.job_advice import AFTER_FAILURE
from worker.commands.job_lookup import cancel_job, find_job, retry_job
from worker.commands.job_report import print_job
from worker.database.owner import connect
from worker.demo.servers import EmbeddedS3
from worker.errors import BY_CODE, CommandRefused
from worker.settings import Settings

NAME = "Marigold Marker"


@pytest.fixture
def db(database_url: str) -> Iterator[AppTables]:
    with AppTables.open(database_url) as tables:
        yield tables


@pytest.fixture
def pods(database_url: str) -> Iterator[Callable[[str], Pod]]:
    made: list[Pod] = []
    with Claims(database_url) as claims:

        def start(name: str) -> Pod:
            made.append(Pod(database_url, claims, name=name))
            return made[-1]

        yield start
        for pod in made:
            pod.close()


@pytest.fixture
def show_job(
    db: AppTables, s3_server: EmbeddedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[object], str]:
    """Return the output of `worker job ID`."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DATABASE_URL": db.url,
        "S3_ENDPOINT_URL": s3_server.url(),
        "S3_ACCESS_KEY_ID": s3_server.access_key_id,
        "S3_SECRET_ACCESS_KEY": s3_server.secret_access_key,
    }.items():
        monkeypatch.setenv(name, value)

    def show(job_id: object) -> str:
        out = io.StringIO()
        with connect(db.url) as connection:
            print_job(
                connection,
                str(job_id),
                Settings.load(storage=False),
                Console(file=out, width=240, markup=False, emoji=False),
            )
        return out.getvalue()

    return show


def request_pictures(db: App, **columns: object) -> UUID:
    """Request pictures of a person with a LoRA."""
    subject = db.add_subject(name=NAME)
    db.add_lora(subject)
    return db.request("generation", subject_id=subject, prompt="in a garden", **columns)


def test_job_shows_request_attempts_and_artefacts(
    db: AppTables, pods: Callable[[str], Pod], show_job: Callable[[object], str], s3_server: EmbeddedS3
) -> None:
    """Two attempts on two pods: the first failed, the second published. No person's name and no signed URL is shown."""
    job_id = request_pictures(db)
    broken = pods("pod-1").run("generation", job_id)
    broken.report(0.3, "drawing 1 of 1")
    broken.fail("storage_error", "the server answered 503", timedelta(0))
    attempt = pods("pod-2").run("generation", job_id)
    assert attempt.publish() == "ok"
    store = boto3.client(
        "s3",
        endpoint_url=s3_server.url(),
        aws_access_key_id=s3_server.access_key_id,
        aws_secret_access_key=s3_server.secret_access_key,
        region_name=s3_server.region,
    )
    store.create_bucket(Bucket="uploads")
    store.put_object(Bucket="uploads", Key=attempt.key("0.png"), Body=b"12345")
    text = show_job(job_id)
    assert f"generation {job_id}: completed" in text
    assert "in a garden" in text
    lines = text.splitlines()
    assert any("pod-1" in line and "storage_error" in line for line in lines)
    assert any("pod-2" in line and "completed" in line for line in lines)
    assert any("phase: drawing 1 of 1" in line for line in lines)
    (artefact,) = (line for line in lines if attempt.key("0.png") in line and "published" in line)
    assert artefact.split()[-1] == "5"
    assert any(attempt.key("0.raw.png") in line and line.split()[-1] == "deleted" for line in lines)
    assert "GPU            2.0 s" in text
    assert lines[-1] == "Next: nothing to do: its result is published"
    assert NAME not in text
    assert "X-Amz" not in text


def test_without_a_store_artefacts_are_listed_without_sizes(
    db: AppTables,
    pods: Callable[[str], Pod],
    show_job: Callable[[object], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = request_pictures(db)
    attempt = pods("pod-1").run("generation", job_id)
    assert attempt.publish() == "ok"
    monkeypatch.delenv("S3_ENDPOINT_URL")
    (artefact,) = (line for line in show_job(job_id).splitlines() if attempt.key("0.png") in line and "uploads" in line)
    assert artefact.split()[-1] == "published"


def test_a_failure_is_shown_with_its_meaning_and_fix(db: AppTables, show_job: Callable[[object], str]) -> None:
    subject = db.add_subject(consent=False, name=NAME)
    job_id = db.request("generation", subject_id=subject, prompt="in a garden")
    text = show_job(job_id)
    assert f"generation {job_id}: failed" in text
    assert "consent_denied" in text
    assert re.search(r"^ *failures +\d, and it is not retried$", text, re.MULTILINE)
    assert "A person in this job has not consented" in text
    assert f"select public.grant_consent('{subject}')" in text.splitlines()[-1]
    assert NAME not in text


def test_every_error_code_has_advice() -> None:
    assert set(AFTER_FAILURE) == set(BY_CODE)
    for advice in AFTER_FAILURE.values():
        advice.format(id=1, subject=2, base=3, install=4, table=5)


def test_the_next_step_is_shown_at_every_stage(
    db: AppTables, pods: Callable[[str], Pod], show_job: Callable[[object], str]
) -> None:
    def next_step(job_id: UUID) -> str:
        return show_job(job_id).splitlines()[-1]

    job_id = request_pictures(db)
    assert "no pod is running" in next_step(job_id)
    pod = pods("pod-1")
    assert "wait for a free pod" in next_step(job_id)
    db.run("update worker.job_kinds set paused = true where kind = 'generation'")
    assert "paused" in next_step(job_id)
    db.run("update worker.job_kinds set paused = false")
    attempt = pod.run("generation", job_id)
    assert f"worker job cancel {job_id}" in next_step(job_id)
    db.run("update worker.pods set last_heartbeat = last_heartbeat - interval '1 minute'")
    assert "no pod is running, not even its own" in next_step(job_id)
    db.run("update worker.pods set last_heartbeat = clock_timestamp()")
    attempt.fail("internal", "it broke", timedelta(hours=1))
    assert "it is retried at" in next_step(job_id)
    with connect(db.url) as owner:
        cancel_job(owner, str(job_id))
    assert f"worker job retry {job_id}" in next_step(job_id)


def test_a_requested_cancellation_is_shown(
    db: AppTables, pods: Callable[[str], Pod], show_job: Callable[[object], str]
) -> None:
    job_id = request_pictures(db)
    pods("pod-1").run("generation", job_id)
    with connect(db.url) as owner:
        assert "is being stopped" in cancel_job(owner, str(job_id))
    assert "told to stop" in show_job(job_id).splitlines()[-1]


def test_a_prompt_cannot_send_control_codes_to_the_terminal(db: AppTables, show_job: Callable[[object], str]) -> None:
    job_id = db.request(
        "generation", owner_id=db.owner, model_ids=[], prompt="\x1b]0;owned\x07[bold]a\r\ngarden[/bold] :smile:"
    )
    text = show_job(job_id)
    assert "[bold]a  garden[/bold] :smile:" in text
    assert not {"\x1b", "\x07", "\r"} & set(text)


def test_a_job_is_found_by_a_unique_prefix_of_its_id(db: AppTables) -> None:
    first, second = UUID("abcd1234-0000-4000-8000-000000000001"), UUID("abcd1234-0000-4000-8000-000000000002")
    for job_id in (first, second):
        db.request("generation", id=job_id, owner_id=db.owner, model_ids=[], prompt="a garden")
    subject = db.add_subject()
    db.add_photos(subject)
    db.request("training", id=first, subject_id=subject)  # ids are unique only within a table
    with connect(db.url) as owner:
        assert find_job(owner, "abcd1234-0000-4000-8000-000000000002")["id"] == second
        assert find_job(owner, "training:ABCD1234")["kind"] == "training"
        for given, why in {
            "abcd1234": str(second),
            str(first): "training:",
            "abc": "invalid job id",
            "x'": "invalid job id",
        }.items():
            with pytest.raises(CommandRefused, match=why):
                find_job(owner, given)
        with pytest.raises(CommandRefused, match="job not found"):
            find_job(owner, str(uuid4()))


def test_retry_and_cancel_refuse_jobs_in_the_wrong_status(db: AppTables, pods: Callable[[str], Pod]) -> None:
    job_id = request_pictures(db)
    with connect(db.url) as owner:
        with pytest.raises(CommandRefused, match="a queued job cannot be retried"):
            retry_job(owner, str(job_id))
        assert "is cancelled" in cancel_job(owner, str(job_id))
        with pytest.raises(CommandRefused, match=r"has already ended \(cancelled\)"):
            cancel_job(owner, str(job_id))
        db.run("update worker.config set open_jobs_per_owner = 1")
        other = db.request("generation", owner_id=db.owner, model_ids=[], prompt="a garden")
        with pytest.raises(CommandRefused, match=r"too many open jobs.*open_jobs_per_owner"):
            retry_job(owner, str(job_id))
        cancel_job(owner, str(other))
        assert "is queued again" in retry_job(owner, str(job_id))
    assert pods("pod-1").claim(GENERATION) == ("generation", job_id)


def test_job_commands_exit_with_0_or_print_the_reason(operator: Operator, pod_url: str) -> None:
    job_id = str(operator.app.request("generation", owner_id=operator.app.owner, model_ids=[], prompt="a garden"))
    assert operator.worker("job", job_id[:13]).code == 0
    assert operator.worker("job", "cancel", job_id).code == 0
    again = operator.worker("job", "cancel", job_id)
    assert (again.code, "only open jobs can be cancelled" in again.stderr) == (1, True)
    refused = operator.worker("job", "retry", job_id, DATABASE_URL=pod_url)
    assert (refused.code, "URL of the database's owner" in refused.stderr) == (1, True)
    assert operator.worker("job", "retry", job_id).code == 0

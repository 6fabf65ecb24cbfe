"""`examples/supabase-js.md`: its SQL runs in order, in PostgREST's roles, and its JavaScript parses."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.pod import Claims, Pod
from tests.sql.tables import AppTables

PAGE = Path(__file__).parent.parent.parent / "examples" / "supabase-js.md"
NODE = shutil.which("node")


def blocks(language: str) -> list[tuple[str, str]]:
    """Return heading and text of every code block of a language, in the page's order."""
    sections = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return [
        (heading, text)
        for heading, body in zip(sections[1::2], sections[2::2], strict=True)
        for text in re.findall(rf"^```{language}\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
    ]


class Reader:
    """A reader who runs the page's SQL. Every named column becomes a value that later steps can use."""

    def __init__(self, app: AppTables) -> None:
        self._app = app
        self.values: dict[str, Any] = {}

    def run(self, block: str) -> None:
        """Run each statement as one request, in the role that the block names."""
        service = block.startswith("-- as service_role\n")
        connection = (
            self._app.acting_as("service_role") if service else self._app.acting_as("authenticated", self._app.owner)
        )
        with connection as client:
            for statement in filter(str.strip, re.sub(r"^--.*\n", "", block, flags=re.MULTILINE).split(";\n")):
                named = re.sub(r":'(\w+)'", r"%(\1)s", statement.replace("%", "%%"))
                cursor = client.execute(named, self.values)
                for row in cursor.fetchall() if cursor.description is not None else []:
                    self.values |= row


@pytest.fixture
def app(database_url: str) -> Iterator[AppTables]:
    with AppTables.open(database_url) as tables:
        for bucket in tables.buckets:
            tables.run("insert into storage.buckets (id, name) values (%s, %s)", bucket, bucket)
        yield tables


@pytest.fixture
def pod(database_url: str) -> Iterator[Pod]:
    with Claims(database_url) as claims:
        made = Pod(database_url, claims)
        yield made
        made.close()


def test_its_sql_runs_from_sign_in_to_a_picture_and_its_revocation(app: AppTables, pod: Pod) -> None:
    reader = Reader(app)

    def complete_job_of(kind: str) -> Callable[[], None]:
        """Let the pod complete the job, and add its objects to storage."""

        def complete() -> None:
            job: UUID = reader.values[f"{kind}_id"]
            attempt = pod.run(kind, job)
            assert attempt.publish() == "ok"
            for key in app.staged(job):
                app.run("insert into storage.objects (bucket_id, name) values (%s, %s)", attempt.bucket, key)

        return complete

    meanwhile = {"Follow it": complete_job_of("training"), "Its signed URL": complete_job_of("generation")}
    steps = blocks("sql")
    for heading, block in steps:
        meanwhile.get(heading, lambda: None)()
        reader.run(block)

    seen = reader.values
    assert [heading for heading, _ in steps if heading in meanwhile] == list(meanwhile)
    assert (seen["user_id"], seen["consent_status"]) == (app.owner, "pending")
    assert (seen["refused_status"], seen["refused_code"]) == ("failed", "consent_denied")
    assert "consent is pending" in seen["refused_error"]
    assert (seen["training_status"], seen["training_error"]) == ("queued", None)
    assert (seen["trained_status"], seen["progress"]) == ("completed", 1)
    assert (seen["generation_status"], seen["generation_error"]) == ("queued", None)
    assert seen["signed_key"] == seen["picture_key"]
    assert seen["cancel_answer"] == "cancelled"
    assert (seen["last_status"], seen["last_code"]) == ("failed", "consent_denied")


def test_steps_without_the_required_right_are_refused(app: AppTables, pod: Pod) -> None:
    """The page's steps work because of the rights they use, not because everything is allowed."""
    reader = Reader(app)
    steps = dict(blocks("sql"))
    reader.run(steps["Sign in"])
    reader.run(blocks("sql")[1][1])
    consent = steps["Consent, on your server"]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="granted by an administrator"):
        reader.run(consent.removeprefix("-- as service_role\n"))
    reader.run(steps["Photos, through signed URLs"])
    reader.run(consent)
    app.add_lora(reader.values["subject_id"])
    reader.run(steps["A picture"])
    job: UUID = reader.values["generation_id"]
    attempt = pod.run("generation", job)
    result = attempt.staged_result()
    reader.values["picture_key"] = key = result["pictures"][0]["upscaled"]
    app.run("insert into storage.objects (bucket_id, name) values ('uploads', %s)", key)
    look = "select name as signed_key from storage.objects where name = :'picture_key'"
    reader.run(look)
    assert "signed_key" not in reader.values, "a staged object must not be visible to its owner"
    assert attempt.complete(result) == "ok"
    app.owner = app.add_user(UUID(int=1))
    reader.run(look)
    assert "signed_key" not in reader.values, "a published object must not be visible to another user"


def test_every_step_has_javascript_and_sql() -> None:
    assert [heading for heading, _ in blocks("js")] == [heading for heading, _ in blocks("sql")]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_its_javascript_parses_as_one_module(tmp_path: Path) -> None:
    module = tmp_path / "page.mjs"
    module.write_text("\n".join(text for _, text in blocks("js")))
    check = subprocess.run([str(NODE), "--check", module], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr

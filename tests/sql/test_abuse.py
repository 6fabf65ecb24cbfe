"""What a hostile or careless client, or a stolen pod login, tries: each of these once worked."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.sql.aside import Aside
from tests.sql.pod import Pod
from tests.sql.tables import AppTables


def test_a_pod_s_temporary_types_do_not_run_as_the_owner(db: AppTables, pod: Pod) -> None:
    """An empty search_path still looks types up in pg_temp first: a domain named text ran its CHECK as the owner."""
    subject = db.add_subject(consent=False)
    pod.database.execute(
        """create function pg_temp.evil(v pg_catalog.text) returns bool language plpgsql as $f$
           begin
             if current_user <> session_user then
               perform set_config('worker.changing_consent', 'yes', true);
               update public.subjects set consent_status = 'approved', consent_purposes = '{training,generation}';
             end if;
             return true;
           end $f$"""
    )
    for name in ("text", "uuid", "jsonb", "int4", "timestamptz"):
        pod.database.execute(f"create domain pg_temp.{name} as pg_catalog.{name}")  # type: ignore[arg-type]
    pod.database.execute("alter domain pg_temp.text add check (pg_temp.evil(value))")
    pod.call("heartbeat", pod.id, [{"kind": "training", "id": str(uuid4()), "attempt": None}])
    assert db.one("select consent_status from public.subjects where id = %s", subject) == "pending"


@pytest.mark.parametrize(
    ("column", "value"), [("lora_scales", "{{1}}"), ("model_ids", "{{%s}}"), ("reference_paths", "{{a}}")]
)
def test_lists_within_lists_are_refused(db: AppTables, column: str, value: str) -> None:
    """Every pod used to fail over such a job, again and again, and its warming ended the process."""
    subject = db.add_subject()
    model = db.add_lora(subject)
    columns: dict[str, object] = {"model_ids": [model], column: value.replace("%s", str(model))}
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.DataError)):
        db.request("generation", subject_id=subject, prompt="x", **columns)


def test_a_request_that_cannot_be_read_ends_instead_of_coming_back(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    model = db.add_lora(subject)
    db.run("alter table public.generation_jobs drop constraint generation_jobs_lora_scales_is_a_list")
    job = db.request("generation", subject_id=subject, prompt="x", model_ids=[model], lora_scales=[[1.0]])
    assert pod.start(*pod.claim()) is None  # type: ignore[misc]
    assert db.status("generation", job) == ("failed", "invalid_input")


def test_a_job_with_the_id_of_another_owner_s_brings_nobody_into_it(db: AppTables, pod: Pod) -> None:
    mine = db.add_subject()
    db.add_lora(mine)
    drawn = pod.run("generation", db.request("generation", subject_id=mine, prompt="x"))
    assert drawn.publish() == "ok"
    picture = f"{db.owner}/{mine}/generated/{drawn.id}/1/0.png"
    stranger = db.add_user(uuid4())
    intruder = db.add_subject(owner=stranger, consent=False)
    with db.acting_as("authenticated", stranger) as connection:
        connection.execute("insert into training_jobs (id, subject_id) values (%s, %s)", [drawn.id, intruder])
    job = db.request(
        "generation", subject_id=mine, prompt="x", base="able-flux", control_path=picture, control_kind="pose"
    )
    assert db.touched("generation", job) == {mine}
    assert db.status("generation", job) == ("queued", None)


@pytest.mark.parametrize(
    "settings", ['{"width": 100000}', '{"steps": 1000000000}', '{"guidance": 1e30}', '{"steps": "many"}']
)
def test_a_preset_s_settings_keep_to_the_columns_ranges(db: AppTables, settings: str) -> None:
    subject = db.add_subject()
    with db.acting_as("authenticated", db.owner) as connection:
        preset = connection.execute(
            "insert into presets (name, kind, prompt, settings) values ('p', 'generation', 'x', %s) returning id",
            [settings],
        ).fetchone()
        assert preset is not None
        with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.DataError)):
            connection.execute(
                "insert into generation_jobs (subject_id, preset_id) values (%s, %s)", [subject, preset["id"]]
            )


def test_a_preset_that_is_edited_or_deleted_later_changes_no_request(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    db.add_lora(subject)
    preset = db.one(
        """insert into public.presets (owner_id, name, kind, prompt, negative_prompt, settings)
           values (%s, 'p', 'generation', '{prompt}, clothed', 'nude', '{"steps": 5}') returning id""",
        db.owner,
    )
    jobs = [db.request("generation", subject_id=subject, prompt="x", preset_id=preset) for _ in range(2)]
    with db.acting_as("authenticated", db.owner) as connection:
        connection.execute("""update presets set prompt = 'y', settings = '{"steps": 50}'""")
        connection.execute("delete from presets")
    for job in jobs:
        payload = pod.run("generation", job).payload
        assert payload["preset"] == {"prompt": "{prompt}, clothed", "negative_prompt": "nude"}
        assert payload["job"]["steps"] == 5


def test_a_request_that_raced_a_revocation_is_refused_and_does_not_wait_for_the_next_grant(
    db: AppTables, aside: Aside
) -> None:
    subject = db.add_subject()
    with psycopg.connect(db.url) as other, psycopg.connect(db.url, autocommit=True) as app:
        other.execute("select public.revoke_consent(%s)", [subject])
        insert = "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x')"
        request = aside.run_blocked(app, app.execute, insert, [subject])
        other.commit()
        request.result(20)
    rows = db.run("select status, error_code from public.generation_jobs")
    assert [(row["status"], row["error_code"]) for row in rows] == [("failed", "consent_denied")]
    assert len(db.ledger(subject, "refusal")) == 1


def test_two_people_of_a_deleted_account_are_stopped_in_one_go(db: AppTables, pod: Pod) -> None:
    ada, ben = db.add_subject(), db.add_subject()
    jobs = [db.request("generation", subject_id=one, prompt="x", model_ids=[db.add_lora(one)]) for one in (ben, ada)]
    db.run("delete from auth.users where id = %s", db.owner)
    assert {db.status("generation", job) for job in jobs} == {("failed", "consent_denied")}


@pytest.mark.parametrize("key", [None, "x", "training:not-a-uuid"])
def test_a_queue_row_that_is_no_job_cannot_be_written(pod: Pod, key: str | None) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        pod.database.execute(
            "insert into worker.pgqueuer (priority, status, entrypoint, dedupe_key) values (0, 'picked', 'x', %s)",
            [key],
        )


def test_refused_requests_have_a_limit_too_because_the_ledger_keeps_them(db: AppTables) -> None:
    subject = db.add_subject(consent=False)
    db.run("update worker.config set open_jobs_per_owner = 1")
    insert = "insert into generation_jobs (subject_id, prompt) values (%s, 'x')"
    with db.acting_as("authenticated", db.owner) as connection:
        for _ in range(10):
            connection.execute(insert, [subject])
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(insert, [subject])
    assert refused.value.sqlstate == "PT429"


def test_a_repeated_request_takes_no_second_place(db: AppTables) -> None:
    subject, job = db.add_subject(), uuid4()
    db.run("update worker.config set open_jobs_per_owner = 1")
    insert = "insert into generation_jobs (id, subject_id, prompt) values (%s, %s, 'x') on conflict do nothing"
    with db.acting_as("authenticated", db.owner) as connection:
        for _ in range(2):
            connection.execute(insert, [job, subject])
    assert db.status("generation", job) == ("queued", None)


def test_consent_changes_only_where_every_job_is_seen(db: AppTables) -> None:
    subject = db.add_subject()
    with psycopg.connect(db.url) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.Error, match="READ COMMITTED"):
            other.execute("select public.revoke_consent(%s)", [subject])


def test_a_job_of_nobody_s_is_refused(db: AppTables) -> None:
    with db.acting_as("service_role") as service, pytest.raises(psycopg.errors.NotNullViolation, match="owner_id"):
        service.execute("insert into generation_jobs (prompt) values ('the sea')")


def test_more_photographs_than_the_column_takes_are_refused_at_the_start(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    db.run(
        """insert into public.subject_photos (subject_id, path)
           select %s, %s || '/photos/' || n || '.jpg' from generate_series(1, 201) n""",
        subject,
        f"{db.owner}/{subject}",
    )
    job = db.request("training", subject_id=subject)
    claim: Any = pod.claim()
    assert pod.start(*claim) is None
    assert db.status("training", job) == ("failed", "invalid_input")

"""Attacks and mistakes of clients, and of a stolen pod login, that once succeeded."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.sql.pod import Pod
from tests.sql.tables import AppTables


def test_a_pods_temporary_types_do_not_run_as_the_owner(db: AppTables, pod: Pod) -> None:
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
def test_nested_lists_are_refused(db: AppTables, column: str, value: str) -> None:
    """Every pod failed on such a job, again and again, and the prefetch ended the process."""
    subject = db.add_subject()
    model = db.add_lora(subject)
    columns: dict[str, object] = {"model_ids": [model], column: value.replace("%s", str(model))}
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.DataError)):
        db.request("generation", subject_id=subject, prompt="x", **columns)


def test_an_unreadable_request_fails_instead_of_being_requeued(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    model = db.add_lora(subject)
    db.run("alter table public.generation_jobs drop constraint generation_jobs_lora_scales_is_a_list")
    job = db.request("generation", subject_id=subject, prompt="x", model_ids=[model], lora_scales=[[1.0]])
    assert pod.start(*pod.claim()) is None  # type: ignore[misc]
    assert db.status("generation", job) == ("failed", "invalid_input")


def test_another_owners_job_with_the_same_id_adds_no_subject(db: AppTables, pod: Pod) -> None:
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
    assert db.job_subjects("generation", job) == {mine}
    assert db.status("generation", job) == ("queued", None)


@pytest.mark.parametrize(
    "settings", ['{"width": 100000}', '{"steps": 1000000000}', '{"guidance": 1e30}', '{"steps": "many"}']
)
def test_a_presets_settings_must_be_within_the_columns_ranges(db: AppTables, settings: str) -> None:
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


def test_editing_or_deleting_a_preset_does_not_change_requests(db: AppTables, pod: Pod) -> None:
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


def test_deleting_an_account_stops_the_jobs_of_all_its_subjects(db: AppTables, pod: Pod) -> None:
    ada, ben = db.add_subject(), db.add_subject()
    jobs = [db.request("generation", subject_id=one, prompt="x", model_ids=[db.add_lora(one)]) for one in (ben, ada)]
    db.run("delete from auth.users where id = %s", db.owner)
    assert {db.status("generation", job) for job in jobs} == {("failed", "consent_denied")}


@pytest.mark.parametrize("key", [None, "x", "training:not-a-uuid"])
def test_a_pod_cannot_write_a_queue_row_without_a_job(pod: Pod, key: str | None) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        pod.database.execute(
            "insert into worker.pgqueuer (priority, status, entrypoint, dedupe_key) values (0, 'picked', 'x', %s)",
            [key],
        )


def test_more_photos_than_a_training_accepts_are_refused_at_the_start(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    db.run(
        """insert into public.subject_photos (subject_id, path)
           select %s, %s || '/photos/' || n || '.jpg' from generate_series(1, 201) n""",
        subject,
        f"{db.owner}/{subject}",
    )
    job = db.request("training", subject_id=subject)
    claim = pod.claim()
    assert claim is not None
    assert pod.start(*claim) is None
    assert db.status("training", job) == ("failed", "invalid_input")

"""Many rows in one statement, as client libraries send them: the same checks, and NULL means the default."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.sql.echo_kind import write_package
from tests.sql.tables import AppTables
from worker.database.schema.migrate import migrate

PROMPTS = ["a chair", "nude", "a lake", "topless on a beach", "a tree"]


def test_rows_of_one_statement_are_checked_and_queued_one_by_one(db: AppTables) -> None:
    """RETURNING shows what was decided about each row, and the queue keeps their order."""
    ada, eve = db.add_subject(), db.add_subject(consent=False)
    with db.acting_as("authenticated", db.owner) as connection:
        connection.execute("listen likeness_queue")
        rows = connection.execute(
            """insert into generation_jobs (subject_id, prompt)
               select subject, prompt
               from unnest(%s::uuid[], %s::text[]) with ordinality as sent (subject, prompt, place)
               order by place returning id, status, error_code""",
            [[None, ada, ada, None, eve], PROMPTS],
        ).fetchall()
        assert len(list(connection.notifies(timeout=1, stop_after=1))) == 1
    assert [(row["status"], row["error_code"]) for row in rows] == [
        ("queued", None),
        ("failed", "prompt_blocked"),
        ("queued", None),
        ("failed", "prompt_blocked"),
        ("failed", "consent_denied"),
    ]
    queue = db.run("select dedupe_key from worker.pgqueuer order by id")
    assert [row["dedupe_key"] for row in queue] == [f"generation:{rows[index]['id']}" for index in (0, 2)]
    assert db.one("select count(*) from worker.pgqueuer_log where status = 'queued'") == 2
    assert [db.job_subjects("generation", row["id"]) for row in rows] == [set(), {ada}, {ada}, set(), {eve}]
    assert [db.events(row["id"]) for row in rows] == [[], ["refused"], [], ["refused"], ["refused"]]
    assert [entry["job_id"] for entry in db.ledger(eve, "refusal")] == [rows[4]["id"]]


def test_rows_of_several_owners_may_stand_in_one_statement(db: AppTables) -> None:
    mine, theirs = db.add_subject(), db.add_subject(owner=db.add_user(uuid4()))
    with db.acting_as("service_role") as connection:
        rows = connection.execute(
            "insert into generation_jobs (subject_id, prompt) select unnest(%s), 'x' returning subject_id, owner_id",
            [[mine, theirs, mine]],
        ).fetchall()
    assert len({row["owner_id"] for row in rows}) == 2
    assert db.one("select count(*) from worker.pgqueuer") == 3


def test_copy_is_checked_as_an_insert_is(db: AppTables) -> None:
    subject = db.add_subject()
    with psycopg.connect(db.url, autocommit=True) as connection:
        connection.execute("set role service_role")
        with connection.cursor().copy("copy generation_jobs (subject_id, prompt, num_images) from stdin") as copy:
            for prompt in PROMPTS:
                copy.write_row((subject, prompt, None))
    found = db.run(
        "select status, count(*), min(num_images) as images from public.generation_jobs group by 1 order by 1"
    )
    assert [tuple(row.values()) for row in found] == [("failed", 2, 1), ("queued", 3, 1)]
    assert db.one("select count(*) from worker.pgqueuer") == 3


def test_rows_that_are_there_already_need_no_place(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 3")
    ids = [uuid4() for _ in range(4)]
    statement = (
        """insert into generation_jobs (id, prompt) select unnest(%s), 'x' on conflict (id) do nothing returning id"""
    )
    with db.acting_as("authenticated", db.owner) as connection:
        assert len(connection.execute(statement, [ids[:3]]).fetchall()) == 3
        connection.execute("listen likeness_queue")
        assert connection.execute(statement, [ids[:3]]).fetchall() == []
        assert list(connection.notifies(timeout=0.2)) == [], "nothing new to claim"
        with pytest.raises(psycopg.Error, match="at most 3"):
            connection.execute(statement, [ids])
    assert db.one("select count(*) from worker.pgqueuer") == 3


# -- NULL for a column that only other rows have


def test_null_means_the_default_in_every_column_that_has_one(db: AppTables) -> None:
    columns = db.run(
        """select attname as name from pg_attribute join pg_attrdef on adrelid = attrelid and adnum = attnum
           where attrelid = 'public.generation_jobs'::regclass"""
    )
    names = [column["name"] for column in columns]
    assert {"id", "num_images", "output_format", "upscale", "quality", "created_at"} <= set(names)
    with_nulls, plain = (
        db.run(
            f"insert into public.generation_jobs (owner_id, {more}prompt) values (%s, {nulls}'x') returning *", db.owner
        )
        for more, nulls in (
            ("".join(f"{name}, " for name in names if name != "prompt"), "null, " * (len(names) - 1)),
            ("", ""),
        )
    )
    varying = {"id", "created_at"}
    assert [{**row, **dict.fromkeys(varying)} for row in with_nulls] == [
        {**row, **dict.fromkeys(varying)} for row in plain
    ]
    assert all(with_nulls[0][name] is not None for name in names)


def test_null_keeps_its_meaning_where_there_is_no_default(db: AppTables) -> None:
    with db.acting_as("authenticated", db.owner) as connection:
        row = connection.execute(
            """insert into generation_jobs (prompt, steps, guidance, width, height, seed, num_images, output_format)
               values ('x', null, null, null, null, null, null, 'webp') returning *"""
        ).fetchone()
    assert row is not None
    assert [row[name] for name in ("steps", "guidance", "width", "height", "seed")] == [None] * 5
    assert (row["num_images"], row["output_format"], row["upscale"]) == (1, "webp", 4)


def test_null_means_the_default_of_people_presets_and_photos(db: AppTables) -> None:
    with db.acting_as("authenticated", db.owner) as connection:
        subject = connection.execute(
            """insert into subjects (id, name, trigger_word, subject_is_adult) values (null, 'Ada', null, null)
               returning *"""
        ).fetchone()
        preset = connection.execute(
            """insert into presets (id, name, kind, prompt, settings) values (null, 'p', 'generation', null, null)
               returning *"""
        ).fetchone()
        assert subject is not None
        photo = connection.execute(
            "insert into subject_photos (id, subject_id, path) values (null, %s, %s) returning *",
            [subject["id"], f"{db.owner}/{subject['id']}/photos/1.jpg"],
        ).fetchone()
    assert preset is not None
    assert photo is not None
    assert (
        subject["owner_id"],
        subject["subject_is_adult"],
        preset["settings"],
        preset["prompt"],
        photo["status"],
    ) == (
        db.owner,
        False,
        {},
        "",
        "new",
    )


def test_a_package_keeps_its_defaults_too(database_url: str, tmp_path: Path) -> None:
    package = write_package(tmp_path)
    table = package.folder / "migrations" / "0001_table.sql"
    table.write_text(
        table.read_text().replace("style text", "style text default 'it''s (plain)', volume real default 0.1 + 0.2")
    )
    migrate(database_url, packages=[package])
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        row = connection.execute(
            """insert into public.echo_jobs (owner_id, words, style, volume)
               values (gen_random_uuid(), null, null, null) returning *"""
        ).fetchone()
    assert row is not None
    assert (row["words"], row["style"], round(row["volume"], 6), row["status"]) == ("", "it's (plain)", 0.3, "queued")

"""What an INSERT refuses because of its words: as the worker's own screening does, but for repeated letters."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.app import TABLES
from tests.prompts import DISGUISES, REPEATED, examples
from tests.sql.pod import Pod
from tests.sql.supabase import Supabase
from tests.sql.tables import AppTables
from worker.database.migrate import migrate
from worker.database.sql_files import sql_folder
from worker.guard import screening, screening_sql

NOT_SHOWN_TO_A_MODEL = """
    base status phase error_code error cancel_code control_path control_kind output_format
    sample_paths reference_paths
"""
"""Text columns of job tables that need no screening. One more fails here until somebody decides."""

# -- the same list, the same eyes


def test_the_terms_of_the_database_are_those_of_the_data_file() -> None:
    assert (sql_folder() / "screened_terms.sql").read_text() == screening_sql.render(), (
        "python -m worker.guard.screening_sql > sql/screened_terms.sql"
    )


def test_postgres_judges_as_the_worker_does(db: AppTables) -> None:
    texts = [(example.text, example.kind) for example in examples()]
    words = ("naked", "child", "dziewczynka", "young girl", "take off her dress", "kidney", "14 year old")
    texts += [(f"photo of {put_on(word)}, dusk", "prompt") for put_on in DISGUISES.values() for word in words]
    rows = db.run(
        """select worker.broken_rule(text, kind) as rule_id
           from unnest(%s::text[], %s::text[]) with ordinality as given (text, kind, place) order by place""",
        [text for text, _ in texts],
        [kind for _, kind in texts],
    )
    differing = set()
    for (text, kind), row in zip(texts, rows, strict=True):
        rule = screening.find(text, kind)  # type: ignore[arg-type]
        found = screening.rules()[row["rule_id"]] if row["rule_id"] else None
        # Not the rule: "o | l | d" is old, and a word of another rule about minors to who sees letters repeated.
        if (rule and rule.category) != (found and found.category):
            differing.add(text)
    assert differing == {"nuuuude", "naaaakeeed", "chiiild"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs", "Cn", "Co"))))
def test_postgres_folds_as_the_worker_does(db: AppTables, text: str) -> None:
    """Whatever the locale of the database makes of upper case: it is not asked."""
    assert db.one("select worker.fold_prompt(%s)", text) == screening.fold(text)


def test_letters_that_are_repeated_are_left_to_the_worker(db: AppTables) -> None:
    for put_on in REPEATED.values():
        assert db.one("select worker.broken_rule(%s, 'prompt')", put_on("naked")) is None
        assert screening.find(put_on("naked")) is not None


def test_a_database_that_has_just_been_migrated_looks_phrases_up_too(supabase: Supabase) -> None:
    """Postgres knows nothing yet of the tables' sizes; where it went through all phrases, such a prompt took 10 s."""
    url = supabase.create()
    migrate(url)
    with psycopg.connect(url) as connection:
        connection.execute("select worker.broken_rule(%s, 'prompt')", ["the pen is here, " * 10])
        read = connection.execute(
            """select relname, seq_tup_read from pg_stat_xact_user_tables
               where relname in ('allowed_phrases', 'screened_terms') and idx_scan > 0"""
        ).fetchall()
    assert dict(read) == {"allowed_phrases": 0, "screened_terms": 0}


# -- the refused row


def insert(db: AppTables, kind: str, **columns: Any) -> dict[str, Any]:
    """The row that a signed-in app gets back."""
    with db.acting_as("authenticated", db.owner) as connection:
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        row = connection.execute(
            f"insert into {TABLES[kind]} ({names}) values ({places}) returning *",  # type: ignore[arg-type]
            list(columns.values()),
        ).fetchone()
    assert row is not None
    return row


def test_a_blocked_prompt_arrives_refused_with_the_rule_and_without_the_words(db: AppTables, pod: Pod) -> None:
    row = insert(db, "generation", subject_id=db.add_subject(), prompt="ohwx n4ked on a balcony")
    assert (row["status"], row["phase"], row["error_code"], row["attempt"]) == (
        "failed",
        "refused",
        "prompt_blocked",
        0,
    )
    assert row["error"] == "the prompt asks for nudity (rule sexual-1); change it and insert another job"
    assert row["finished_at"] is not None
    assert db.queue_row("generation", row["id"]) is None
    assert pod.claim() is None
    (event,) = db.run("select event, detail from worker.job_events where job_id = %s", row["id"])
    assert event == {"event": "refused", "detail": {"code": "prompt_blocked", "error": row["error"]}}


def preset(db: AppTables, prompt: str, negative_prompt: str | None = None) -> UUID:
    made: UUID = db.one(
        """insert into public.presets (owner_id, name, kind, prompt, negative_prompt)
           values (%s, 'a look', 'generation', %s, %s) returning id""",
        db.owner,
        prompt,
        negative_prompt,
    )
    return made


def test_the_words_of_a_picture_are_screened_as_its_preset_merges_them(db: AppTables) -> None:
    subject = db.add_subject()
    lora = db.add_lora(subject)
    db.run("update public.subjects_models set trigger_word = 'young' where id = %s", lora)
    plain: dict[str, Any] = {"subject_id": subject, "model_ids": [], "prompt": "x"}
    for what, rule, columns in [
        ("the prompt", "sexual-1", {"prompt": "nude"}),
        ("the prompt", "sexual-1", {"preset_id": preset(db, "{prompt}, topless")}),
        ("the prompt", "minors-1", {"prompt": "little", "preset_id": preset(db, "a {prompt} girl")}),
        ("the prompt", "minors-1", {"prompt": "young", "preset_id": preset(db, "girl in a field")}),
        ("the prompt", "minors-1", {"model_ids": [lora], "preset_id": preset(db, "{trigger} girl, {prompt}")}),
        ("the negative prompt", "negative-1", {"negative_prompt": "blurry, clothes"}),
        ("the negative prompt", "negative-2", {"preset_id": preset(db, "", "adult")}),
    ]:
        row = insert(db, "generation", **{**plain, **columns})  # type: ignore[arg-type]
        assert row["error_code"] == "prompt_blocked", columns
        assert row["error"].startswith(f"{what} asks for ")
        assert f"(rule {rule})" in row["error"]
    assert insert(db, "generation", **plain)["status"] == "queued"


def test_the_words_of_a_training_are_screened(db: AppTables) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    row = insert(db, "training", subject_id=subject, trigger_word="n4ked")
    assert row["error"].startswith("the trigger word asks for nudity")
    row = insert(db, "training", subject_id=subject, class_name="naked person")
    assert row["error"].startswith("the class name asks for nudity")
    db.run("update public.subjects set trigger_word = 'nastolatka' where id = %s", subject)
    row = insert(db, "training", subject_id=subject)
    assert row["error"].startswith("the trigger word asks for a teenager"), "of the person, where the job names none"
    assert insert(db, "training", subject_id=subject, trigger_word="ohwx")["status"] == "queued"


def test_a_person_without_consent_is_the_first_thing_that_is_said(db: AppTables) -> None:
    subject = db.add_subject(consent=False)
    assert insert(db, "generation", subject_id=subject, prompt="nude")["error_code"] == "consent_denied"
    agreeing = db.add_subject()
    insert(db, "generation", subject_id=agreeing, prompt="nude")
    assert db.ledger(agreeing, "refusal") == [], "nobody objected: the ledger is about consent"


def test_refused_prompts_have_a_limit_so_that_nobody_feels_a_way_around_the_words(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 1")
    subject = db.add_subject()
    for _ in range(10):
        insert(db, "generation", subject_id=subject, prompt="nude")
    with pytest.raises(psycopg.Error, match="too many refused requests") as refused:
        insert(db, "generation", subject_id=subject, prompt="nude")
    assert refused.value.sqlstate == "PT429"


def test_every_text_column_of_a_job_is_screened_or_known_to_reach_no_model(db: AppTables) -> None:
    """A new column fails here until its kind's hook `texts` has it, or the list above does."""
    columns = db.run(
        """select distinct attname as name from pg_attribute join worker.job_kinds on attrelid = table_name::regclass
           where atttypid in ('text'::regtype, 'text[]'::regtype, 'varchar'::regtype) and not attisdropped"""
    )
    undecided = {column["name"] for column in columns} - set(NOT_SHOWN_TO_A_MODEL.split())
    assert undecided == {"prompt", "negative_prompt", "trigger_word", "class_name"}
    for column in undecided:
        words = "clothes" if column == "negative_prompt" else "nude"
        kind = "training" if column in ("trigger_word", "class_name") else "generation"
        assert db.one("select worker.prompt_error(%s, %s)", kind, Jsonb({column: words})) is not None, column

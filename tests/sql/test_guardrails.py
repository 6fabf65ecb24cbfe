"""Screening at the INSERT: it refuses undisguised words of the list, and nothing that the worker allows."""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.app import TABLES
from tests.prompts import examples
from tests.sql.pod import Pod
from tests.sql.supabase import Supabase
from tests.sql.tables import AppTables
from worker.database.schema.migrate import migrate
from worker.database.schema.sql_files import sql_folder
from worker.guard import screening, screening_sql
from worker.guard.screening_folding import fold, folding

NOT_SHOWN_TO_A_MODEL = """
    base status phase error_code error cancel_code control_path control_kind control_from sampler
    output_format sample_paths reference_paths reference_urls guides fingerprint image_urls image_paths quality
    format texture
"""
"""Text columns of job tables that need no screening. A new column fails the test until it is screened or added."""

LONGEST = 6
"""The most words that `worker.matching_term_rule` and `worker.is_allowed` compare at once."""

# -- the words of the list


def test_the_terms_of_the_database_are_those_of_the_data_file() -> None:
    assert (sql_folder() / "screened_terms.sql").read_text() == screening_sql.render(), (
        "python -m worker.guard.screening_sql > sql/screened_terms.sql"
    )


def test_no_phrase_is_longer_than_an_insert_compares() -> None:
    """With an allowed phrase seen only in part, an INSERT would refuse what the worker allows."""
    phrases = [term.words for term in screening.terms()]
    phrases += [phrase for kind in screening.screens() for phrase in screening.allowed_phrases(kind)]
    assert max(len(folding().pieces.findall(phrase)) for phrase in phrases) <= LONGEST


def violations(db: AppTables, texts: list[tuple[str, screening.Kind]]) -> list[str | None]:
    """Return the rule that each text violates at an INSERT, or None."""
    rows = db.run(
        """select worker.find_violation(text, kind) as rule_id
           from unnest(%s::text[], %s::text[]) with ordinality as given (text, kind, place) order by place""",
        [text for text, _ in texts],
        [kind for _, kind in texts],
    )
    return [row["rule_id"] for row in rows]


def test_an_insert_refuses_exactly_the_examples_marked_for_it(db: AppTables) -> None:
    found = violations(db, [(example.text, example.kind) for example in examples()])
    wrong = []
    for example, rule_id in zip(examples(), found, strict=True):
        category = screening.rules()[rule_id].category if rule_id else None
        if category != (example.category if example.at_insert else None):
            wrong.append((example.text, example.category, rule_id))
    assert wrong == []
    assert sum(example.at_insert for example in examples()) > 300


# -- no stricter than the worker

GAPS = [" ", " ", " ", ", ", ",", "-", ". ", "! ", "|", "'", "\u2019", "", "1", "\n", " … ", " ✨ ", "\u00ad", " é "]
CHANGES = [str, str, str.upper, str.title, str.swapcase, lambda text: unicodedata.normalize("NFD", text)]


def texts() -> st.SearchStrategy[str]:
    """Concatenate words and phrases of the list, of allowed phrases, numbers and arbitrary text."""
    listed = [term.words for term in screening.terms()]
    innocent = sorted(screening.allowed_phrases("prompt") | screening.allowed_phrases("negative_prompt"))
    words = sorted({word for phrase in [*listed, *innocent] for word in phrase.split()})
    fragment = st.one_of(
        *(st.sampled_from(some) for some in (listed, innocent, words, ["a", "1", "14", "ß", "ł", "Ida"])),
        st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=4),
    )
    changed = st.builds(lambda text, change: change(text), fragment, st.sampled_from(CHANGES))
    pairs = st.lists(st.tuples(changed, st.sampled_from(GAPS)), min_size=1, max_size=8)
    return pairs.map(lambda parts: "".join(text + gap for text, gap in parts))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(texts(), min_size=5, max_size=20), st.sampled_from(["prompt", "negative_prompt"]))
def test_an_insert_refuses_nothing_that_the_worker_allows(
    db: AppTables, given_texts: list[str], kind: screening.Kind
) -> None:
    found = violations(db, [(text, kind) for text in given_texts])
    refused = [text for text, rule_id in zip(given_texts, found, strict=True) if rule_id]
    assert [text for text in refused if screening.find(text, kind) is None] == []


def test_an_insert_folds_each_character_as_the_worker_does_or_skips_the_text(db: AppTables) -> None:
    codes = [code for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000]
    rows = db.run(
        """select chr(code) as character, worker.fold_prompt('x' || chr(code) || 'y') as words
           from unnest(%s::integer[]) code""",
        codes,
    )
    read = {row["character"]: row["words"] for row in rows if row["words"] is not None}
    assert len(read) > 3000
    # At the INSERT, signs and listed emoji are punctuation: one of the readings that the worker tries.
    as_punctuation = {ord(sign): "," for sign in "!$+@|👦👧👶👼🔞🧒"}
    differing = set()
    for character, words in read.items():
        folded = fold(f"x{character}y").translate(as_punctuation)
        if words != re.sub("([0-9])", r" \1 ", re.sub(",", ", ", folded)):
            differing.add(character)
    assert differing == set()


def test_a_newly_migrated_database_finds_phrases_by_index(supabase: Supabase) -> None:
    """Without statistics, Postgres once scanned all phrases, and such a prompt took 10 s."""
    url = supabase.create()
    migrate(url)
    with psycopg.connect(url) as connection:
        connection.execute("select worker.find_violation(%s, 'prompt')", ["nude lipstick, " * 10])
        read = connection.execute(
            """select relname, seq_tup_read from pg_stat_xact_user_tables
               where relname in ('allowed_phrases', 'screened_terms') and idx_scan > 0"""
        ).fetchall()
    assert dict(read) == {"allowed_phrases": 0, "screened_terms": 0}


# -- the refused row


def insert(db: AppTables, kind: str, **columns: Any) -> dict[str, Any]:
    """Insert as a signed-in user; returns the row."""
    with db.acting_as("authenticated", db.owner) as connection:
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        row = connection.execute(
            f"insert into {TABLES[kind]} ({names}) values ({places}) returning *",  # type: ignore[arg-type]
            list(columns.values()),
        ).fetchone()
    assert row is not None
    return row


def test_a_blocked_prompt_is_stored_as_failed_with_the_rule_and_without_the_words(db: AppTables, pod: Pod) -> None:
    row = insert(db, "generation", subject_id=db.add_subject(), prompt="ohwx naked on a balcony")
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


def test_a_prompt_is_screened_as_merged_with_its_preset(db: AppTables) -> None:
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


def test_trigger_word_and_class_name_are_screened(db: AppTables) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    row = insert(db, "training", subject_id=subject, trigger_word="naked")
    assert row["error"].startswith("the trigger word asks for nudity")
    row = insert(db, "training", subject_id=subject, class_name="naked person")
    assert row["error"].startswith("the class name asks for nudity")
    db.run("update public.subjects set trigger_word = 'nastolatka' where id = %s", subject)
    row = insert(db, "training", subject_id=subject)
    assert row["error"].startswith("the trigger word asks for a teenager"), (
        "the subject's word, because the job names none"
    )
    assert insert(db, "training", subject_id=subject, trigger_word="ohwx")["status"] == "queued"


def test_missing_consent_is_reported_before_a_blocked_prompt(db: AppTables) -> None:
    subject = db.add_subject(consent=False)
    assert insert(db, "generation", subject_id=subject, prompt="nude")["error_code"] == "consent_denied"
    with_consent = db.add_subject()
    insert(db, "generation", subject_id=with_consent, prompt="nude")
    assert db.ledger(with_consent, "refusal") == [], "the ledger records only refusals for consent"


def test_refused_prompts_are_limited_to_prevent_probing_of_the_list(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 1")
    subject = db.add_subject()
    for _ in range(10):
        insert(db, "generation", subject_id=subject, prompt="nude")
    with pytest.raises(psycopg.Error, match="too many refused requests") as refused:
        insert(db, "generation", subject_id=subject, prompt="nude")
    assert refused.value.sqlstate == "PT429"


def test_every_text_column_of_a_job_is_screened_or_known_to_reach_no_model(db: AppTables) -> None:
    """A new column fails here until its kind's hook `texts` returns it, or the list above has it."""
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

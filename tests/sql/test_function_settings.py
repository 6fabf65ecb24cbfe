"""Functions do the same whatever the session of an app has set: PostgREST's login, or a script's own SET."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from tests.app import App
from tests.conftest import Databases
from tests.prompts import examples
from tests.sessions import AWKWARD, identifier, reset_all, set_all
from tests.sql.tables import AppTables
from worker.database.schema import printed
from worker.database.schema.migrate import install_supabase_stubs
from worker.database.schema.sql_files import repeatable_files
from worker.database.session_settings import SETTINGS

OF_SESSIONS = {
    # What a transaction or a connection has, and no function can change within it.
    *("client_encoding", "client_min_messages", "exit_on_error", "restrict_nonsystem_relation_kind", "row_security"),
    *("default_transaction_deferrable", "default_transaction_isolation", "default_transaction_read_only"),
    *("idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout", "statement_timeout"),
    *("jit", "jit_above_cost", "transaction_timeout"),
}
AWKWARD_FOR_FUNCTIONS = {name: value for name, value in AWKWARD.items() if name not in OF_SESSIONS}


OF_FUNCTIONS = """
    DateStyle IntervalStyle TimeZone array_nulls backslash_quote bytea_output extra_float_digits quote_all_identifiers
    row_security standard_conforming_strings transform_null_equals
"""


def test_functions_that_others_call_have_the_settings_of_this_project(db: AppTables) -> None:
    """Those that they call have them too: the settings hold until the outermost function ends."""
    functions = db.run(
        """select oid::regprocedure::text as name, proconfig from pg_proc
           where pronamespace = 'worker'::regnamespace and (prorettype = 'trigger'::regtype or exists (
             select from aclexplode(proacl) granted where granted.grantee <> proowner))"""
    )
    assert len(functions) > 40
    wanted = {name.lower(): SETTINGS[name] for name in OF_FUNCTIONS.split()}
    for function in functions:
        settings = {name.lower(): value for name, value in (setting.split("=", 1) for setting in function["proconfig"])}
        assert {name: settings.get(name) for name in wanted} == wanted, function["name"]


def test_no_literal_of_a_file_that_is_run_again_needs_standard_conforming_strings() -> None:
    """Tools that send a printed migration as one string have it read before its first statement sets anything."""
    with_backslashes = {file.name for file in repeatable_files() if re.search(r"^[^-]*\\", file.text, re.MULTILINE)}
    assert with_backslashes == {"guardrails"}  # which means the same both ways


def test_a_printed_migration_means_the_same_under_every_setting(
    db: AppTables, databases: Databases, tmp_path: Path
) -> None:
    name = f"printed_{uuid4().hex[:12]}"
    url = databases.server.url(name)
    with psycopg.connect(databases.server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    install_supabase_stubs(url)
    set_all(databases.server.url(), name, AWKWARD_FOR_FUNCTIONS)
    (tmp_path / "printed.sql").write_text(printed.render())
    options = ["-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "printed.sql"]
    psql = [databases.server.programs / "psql", *options, url]
    ran = subprocess.run(psql, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    reset_all(databases.server.url(), name)
    with psycopg.connect(url) as connection:
        found = [connection.execute(query).fetchall() for query in WHAT_IS_THERE]
    databases.drop(name)
    with psycopg.connect(db.url) as connection:
        assert found == [connection.execute(query).fetchall() for query in WHAT_IS_THERE]


WHAT_IS_THERE = (
    "select term::text from worker.screened_terms term order by 1",
    "select phrase::text from worker.allowed_phrases phrase order by 1",
    """select oid::regprocedure::text, prosrc, proconfig from pg_proc
       where pronamespace = 'worker'::regnamespace order by 1""",
    """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
       where conrelid <> 0 and connamespace in ('worker'::regnamespace, 'public'::regnamespace) order by 1, 2""",
    "select tablename, policyname, qual, with_check from pg_policies order by 1, 2",
)


def test_hostile_words_are_refused_under_every_setting_of_the_client(app: App) -> None:
    """standard_conforming_strings = off, for one, changes what a backslash in a pattern is."""
    prompts = [example.text for example in examples() if example.at_insert and example.kind == "prompt"][::7]
    subject = app.add_subject()
    statuses: dict[str, list[tuple[str, str | None]]] = {}
    for name in ("usual", "awkward"):
        with app.acting_as("authenticated", app.owner) as client:
            if name == "awkward":
                for setting, value in AWKWARD_FOR_FUNCTIONS.items():
                    client.execute(sql.SQL("set {} = {}").format(identifier(setting), sql.Literal(value)))
            rows = [_insert(client, subject, prompt) for prompt in prompts]
            statuses[name] = [(row["status"], row["error_code"]) for row in rows]
            allowed = _insert(client, subject, "photo of ohwx in a garden, 35mm")
            assert (allowed["status"], allowed["error_code"]) == ("queued", None)
    assert statuses["awkward"] == statuses["usual"]
    assert statuses["usual"].count(("failed", "prompt_blocked")) > len(prompts) / 2


def _insert(client: psycopg.Connection[dict[str, object]], subject: object, prompt: str) -> dict[str, object]:
    row = client.execute(
        "insert into public.generation_jobs (id, subject_id, prompt) values (%s, %s, %s) returning status, error_code",
        [uuid4(), subject, prompt],
    ).fetchone()
    assert row is not None
    return row


def test_what_a_pod_is_told_does_not_depend_on_the_session(db: AppTables) -> None:
    subject = db.add_subject()
    job = db.request("generation", subject_id=subject, model_ids=[], prompt="a garden")
    pod = uuid4()

    def told(setting: str | None) -> object:
        """What a pod is told of the job in a session with this setting; nothing of it remains."""
        with psycopg.connect(db.url) as session:
            if setting is not None:
                value = sql.Literal(AWKWARD_FOR_FUNCTIONS[setting])
                session.execute(sql.SQL("set {} = {}").format(identifier(setting), value))
            session.execute(
                "select worker.register_pod(%s, 'p', '{generation/tiny-flux}', null, '{}', false, '1')", [pod]
            )
            session.execute(
                "update worker.pgqueuer set status = 'picked', queue_manager_id = %s where dedupe_key = %s",
                [pod, f"generation:{job}"],
            )
            row = session.execute("select worker.start_job('generation', %s, %s)::text", [job, pod]).fetchone()
            assert row is not None
            session.rollback()
            return _without_the_time(row[0])

    usual = told(None)
    for setting in AWKWARD_FOR_FUNCTIONS:
        assert told(setting) == usual, setting


def _without_the_time(payload: str) -> object:
    told = json.loads(payload)
    told["job"].pop("started_at")
    return told

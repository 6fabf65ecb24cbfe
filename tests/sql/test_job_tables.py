"""Job tables: registration, also repeated and for a new kind, `alter_job_tables`, and Realtime."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.sql.catalog import differences, snapshot
from tests.sql.files import next_release
from tests.sql.pod import Claims, Pod
from tests.sql.supabase import Supabase
from tests.sql.tables import AppTables
from worker.database.schema import migrate
from worker.database.schema.sql_files import sql_folder

PUBLISHED = {"subjects", "subjects_models", "training_jobs", "generation_jobs", "mesh_jobs"}

NEW_TABLE = """
create table public.sketch_jobs (
  like worker.life_cycle including all,
  input_path text not null
);
comment on table public.sketch_jobs is 'Requests for sketches.';
"""

NEW_KIND_FILE = """
create or replace function worker.sketch__named_keys(p_job jsonb) returns table (column_name text, key text, rule text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'input_path', p_job ->> 'input_path', 'input' where p_job ->> 'input_path' is not null $$;
comment on function worker.sketch__named_keys is 'The picture may show no person.';

do $$
begin
  perform worker.register_job_table('sketch', 'public.sketch_jobs', null, false, 'light', interval '10 minutes');
  perform worker.declare_policy('sketch', 'users can view their sketches', 'select', 'owner_id = (select auth.uid())');
  perform worker.declare_policy('sketch', 'users can request sketches', 'insert', 'owner_id = (select auth.uid())');
end $$;
"""


def published(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {
            f"{schema}.{table}"
            for schema, table in connection.execute(
                "select schemaname, tablename from pg_publication_tables"
            ).fetchall()
        }


def test_registering_the_kinds_again_changes_nothing(any_supabase: Supabase) -> None:
    url = any_supabase.migrated(grants_by_default=True, realtime=True)
    with psycopg.connect(url, autocommit=True) as owner:
        before = snapshot(url)
        for file in (
            *sorted((sql_folder() / "kinds").glob("*.sql")),
            sql_folder() / "rights.sql",
            sql_folder() / "rls.sql",
            sql_folder() / "function_settings.sql",
        ):
            owner.execute(file.read_text())  # type: ignore[arg-type]
        assert differences(before, snapshot(url)) == {}
        assert published(url) == {f"public.{table}" for table in PUBLISHED}


def test_an_administrators_settings_survive_the_next_release(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated()
    with AppTables.open(url) as app:
        app.run("update worker.job_kinds set paused = true, max_runtime = '9 hours' where kind = 'training'")
        app.run("update worker.config set keep_logs_for = '7 days'")
        before = snapshot(url)
        migrate.migrate(url, next_release(tmp_path))
        assert list(differences(before, snapshot(url))) == ["row of worker.schema_versions views"]


def test_a_publication_for_all_tables_is_not_changed(supabase: Supabase) -> None:
    url = supabase.create()
    with psycopg.connect(supabase.superuser_url(url), autocommit=True) as superuser:
        superuser.execute("create publication supabase_realtime for all tables")
    migrate.migrate(url)
    assert {f"public.{table}" for table in PUBLISHED} <= published(url)


def test_tables_join_the_publication_once_it_exists(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("create publication supabase_realtime")
        owner.execute("alter publication supabase_realtime add table public.subjects")
    migrate.migrate(url, next_release(tmp_path))
    assert published(url) == {f"public.{table}" for table in PUBLISHED}


def test_a_new_life_cycle_column_is_in_every_job_table_and_no_client_can_write_it(
    supabase: Supabase, tmp_path: Path
) -> None:
    url = supabase.migrated(grants_by_default=True)
    release = next_release(
        tmp_path, _9001_node="select worker.alter_job_tables('alter table %s add column node text default ''here''');"
    )
    migrate.migrate(url, release)
    with AppTables.open(url) as app:
        tables = {
            row["name"]
            for row in app.run(
                """select oid::regclass::text as name from pg_attribute join pg_class on oid = attrelid
                   where attname = 'node' and relkind = 'r'"""
            )
        }
        jobs = {"training_jobs", "generation_jobs", "mesh_jobs", "worker.internal_jobs"}
        assert tables == {"worker.life_cycle", *jobs}
        # The owner's functions can change it; clients cannot write it, neither at the insert nor later.
        job = app.ask_training()
        app.run("update public.training_jobs set node = 'there' where id = %s", job)
        for role in ("authenticated", "service_role"):
            with app.acting_as(role, app.owner) as client:
                for statement in (
                    "insert into public.generation_jobs (prompt, node) values ('the sea', 'mine')",
                    "update public.training_jobs set node = 'mine'",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table"):
                        client.execute(statement)
                client.execute("insert into public.generation_jobs (prompt) values ('the sea')")


def test_a_new_kind_needs_only_a_table_and_a_file(supabase: Supabase, tmp_path: Path) -> None:
    release = next_release(tmp_path, _9001_sketch=NEW_TABLE)
    (release / "kinds" / "sketch.sql").write_text(NEW_KIND_FILE)
    url = supabase.migrated(grants_by_default=True, realtime=True)
    migrate.migrate(url, release)
    assert "public.sketch_jobs" in published(url)

    with AppTables.open(url) as app, Claims(url) as claims:
        insert = """insert into public.sketch_jobs (input_path) values (auth.uid() || '/_/inputs/1.png')
                    returning id, owner_id, max_runtime"""
        with app.acting_as("authenticated", app.owner) as client:
            job = client.execute(insert).fetchone()
            assert job is not None
            assert job["owner_id"] == app.owner
            assert client.execute("select from public.sketch_jobs").rowcount == 1
            for forbidden in ("delete from public.sketch_jobs", "update public.sketch_jobs set status = 'completed'"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    client.execute(forbidden)
        with app.acting_as("anon") as stranger, pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute("select from public.sketch_jobs")
        assert app.one("select kind || ' ' || status from worker.jobs where id = %s", job["id"]) == "sketch queued"

        pod = Pod(url, claims, routes=("sketch",))
        attempt = pod.run("sketch", job["id"])
        assert attempt.complete({"objects": []}) == "ok"
        pod.close()
        with app.acting_as("authenticated", app.owner) as client:
            assert client.execute("select status from public.sketch_jobs").fetchall() == [{"status": "completed"}]

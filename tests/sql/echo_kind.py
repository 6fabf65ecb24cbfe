"""An example kind, in parts that a test can change, and the package that contains it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg

from worker.database.schema.sql_files import Package

PACKAGE = "likeness-echo"

TABLE = """
create table public.echo_jobs (
  like worker.life_cycle including all,
  words text not null default '',
  picture_path text,
  style text
);
comment on table public.echo_jobs is 'Requests for echoes.';
"""

NAMED_KEYS = """
create or replace function worker.echo__named_keys(p_job jsonb) returns table (column_name text, key text, rule text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'picture_path', p_job ->> 'picture_path', 'person' where p_job ->> 'picture_path' is not null $$;
"""

TEXTS = """
create or replace function worker.echo__texts(p_job jsonb) returns table (column_name text, words text, screens text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ values ('words', p_job ->> 'words', 'prompt') $$;
"""

PLAIN_COLUMNS = """
create or replace function worker.echo__plain_columns() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{style}'::text[] $$;
"""

HOOKS = NAMED_KEYS + TEXTS + PLAIN_COLUMNS

REGISTRATION = """
do $$
begin
  perform worker.register_job_table('echo', 'public.echo_jobs', 'generation', false, 'light', interval '10 minutes');
  perform worker.declare_policy('echo', 'users can view their own echoes', 'select', 'owner_id = (select auth.uid())');
  perform worker.declare_policy('echo', 'users can request echoes', 'insert', 'owner_id = (select auth.uid())');
end $$;
"""


def write_package(folder: Path, name: str = PACKAGE, **files: str) -> Package:
    """Write a package with the table as first migration, the kind in `echo.sql`, and these further repeatable files."""
    sql = folder / name / "sql"
    (sql / "migrations").mkdir(parents=True)
    (sql / "migrations" / "0001_table.sql").write_text(TABLE)
    for file, text in ({"echo": HOOKS + REGISTRATION} | files).items():
        (sql / f"{file}.sql").write_text(text)
    return Package(name, sql)


def apply_file(url: str, text: str, *, package: str = PACKAGE, name: str = "more") -> None:
    """Apply a SQL file of a package, as `worker migrate` and the printed SQL do."""
    with psycopg.connect(url) as owner:
        owner.execute(
            "select worker.apply_package_file(%s, %s, %s, %s)",
            [package, name, hashlib.sha256(text.encode()).hexdigest(), text],
        )

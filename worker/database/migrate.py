"""Applies `sql/` to a database, or prints it as one plain SQL file for `supabase/migrations/`.

Numbered files hold state and run once each, in order, with a checksum. The repeatable files hold none; when anything
changed they all run again, in order, because the rights at the end of one cover what the others make. Either route may
follow the other: both record the same versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from worker.database.errors import explain_connection

REPEATABLE = (
    "consent",
    "requests",
    "functions",
    "guardrails",
    "screened_terms",
    "failures_and_cancel",
    "pods",
    "kinds",
    "rights",
    "zz_contract",  # CONTRACT ONLY: goes at the merge
    "triggers",
    "views",
    "comments",
    "rls",
)
SCHEMA_MAJOR = 1
"""The major version of the schema this code understands; pods refuse a newer one."""

_LOCK = "do $$ begin perform pg_advisory_xact_lock(hashtextextended('likeness migrate', 0)); end $$"


class MigrationError(Exception):
    """The database was left as it was; the message says why and what to do."""


@dataclass(frozen=True)
class SqlFile:
    """One file of `sql/`. `number` is None for a repeatable one."""

    name: str
    text: str
    number: int | None

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def sql_folder() -> Path:
    """Where `sql/` is: inside the installed package, else beside it in a checkout."""
    installed = Path(__file__).parents[1] / "_sql"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sql"


def numbered_files(folder: Path | None = None) -> list[SqlFile]:
    """The numbered migrations, in order."""
    paths = sorted(((folder or sql_folder()) / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [SqlFile(path.stem, path.read_text(), int(path.stem[:4])) for path in paths]


def repeatable_files(folder: Path | None = None) -> list[SqlFile]:
    """The repeatable files, in the order in which they depend on each other."""
    return [SqlFile(name, ((folder or sql_folder()) / f"{name}.sql").read_text(), None) for name in REPEATABLE]


def migrate(database_url: str, folder: Path | None = None) -> list[str]:
    """Bring the database up to date in one transaction; returns the names of the files that ran.

    Raises MigrationError when nobody answers, a file fails, an applied one was edited, or a newer release was here;
    nothing is changed then.
    """
    folder = folder or sql_folder()
    try:
        with psycopg.connect(database_url, autocommit=False) as connection:
            _run(connection, _LOCK)
            _run(connection, (folder / "preflight.sql").read_text())
            applied: dict[str, str] = dict(
                connection.execute("select name, checksum from worker.schema_versions").fetchall()
            )
            pending = pending_files(applied, folder)
            for file in pending:
                _apply(connection, file)
            if pending:
                _run(connection, "notify pgrst, 'reload schema'")
    except psycopg.Error as error:
        raise MigrationError(_explain(error)) from error
    return [file.name for file in pending]


def pending_files(applied: dict[str, str], folder: Path | None = None) -> list[SqlFile]:
    """What a database with these files (checksum by name) still needs, in order.

    Raises MigrationError when an applied file was edited, or a newer release was here.
    """
    numbered, repeatable = numbered_files(folder), repeatable_files(folder)
    newer = sorted({name for name in applied if name[:4].isdigit()} - {file.name for file in numbered})
    if newer:
        raise MigrationError(
            f"a newer release was here: this one does not know {', '.join(newer)}, and would put old functions back. "
            "Migrate with that release or a later one; nothing was changed."
        )
    for file in numbered:
        if file.name in applied and applied[file.name] != file.checksum:
            raise MigrationError(
                f"sql/migrations/{file.name}.sql was changed after it was applied here. "
                "Put it back and write the change as a new migration; nothing was changed."
            )
    pending = [file for file in numbered if file.name not in applied]
    if pending or any(applied.get(file.name) != file.checksum for file in repeatable):
        pending += repeatable
    return pending


def _apply(connection: psycopg.Connection, file: SqlFile) -> None:
    try:
        _run(connection, file.text)
    except psycopg.Error as error:
        raise MigrationError(f"{file.name}.sql: {_explain(error)} Nothing was changed.") from error
    connection.execute(
        "insert into worker.schema_versions (name, checksum) values (%s, %s) "
        "on conflict (name) do update set checksum = excluded.checksum, applied_at = now()",
        (file.name, file.checksum),
    )


def _run(connection: psycopg.Connection, text: str) -> None:
    # As bytes: the files are our own, and without parameters psycopg sends them as they are.
    connection.execute(text.encode())


def _explain(error: psycopg.Error) -> str:
    if error.sqlstate is None:  # no server said it: nobody was reached
        return str(explain_connection(error, "DATABASE_URL"))
    hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint += " Migrate with the URL of the database's owner, not of a pod."
    return f"{error.diag.message_primary or str(error).strip()}.{hint}"


def render(since: int = 0, folder: Path | None = None) -> str:
    """The same as `migrate`, as one plain SQL file: numbered files after `since`, then the repeatable ones.

    No BEGIN and no psql commands: the tool that applies it brings the transaction. Raises MigrationError when there is
    no migration `since`.
    """
    folder = folder or sql_folder()
    numbered = numbered_files(folder)
    if since and since not in [file.number for file in numbered]:
        raise MigrationError(
            f"there is no migration {since}: the newest is {numbered[-1].number}, {numbered[-1].name}."
        )
    wanted = [file for file in numbered if file.number is not None and file.number > since]
    earlier = [file for file in numbered if file.number is not None and file.number <= since]
    parts = [
        f"-- Likeness: migrations after {since:04d} and the repeatable files. Generated by `worker migrate --print`.\n"
        "-- As the database's owner, all or nothing: supabase db push, or\n"
        '-- psql -1 -v ON_ERROR_STOP=1 -f THIS_FILE "$OWNERS_URL"',
        "set local client_min_messages = warning;  -- else psql tells what each `if exists` did not find",
        f"{_LOCK};",
        (folder / "preflight.sql").read_text(),
        _guard(wanted, earlier),
    ]
    for file in [*wanted, *repeatable_files(folder)]:
        parts += [f"-- ===== {file.name}.sql", file.text, _record(file)]
    parts.append("notify pgrst, 'reload schema';")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _guard(wanted: list[SqlFile], earlier: list[SqlFile]) -> str:
    return f"""
do $$
declare
  v_names text;
begin
  select string_agg(name, ', ' order by name) into v_names from worker.schema_versions
  where name ~ '^[0-9]{{4}}_' and name <> all ({_array(file.name for file in [*earlier, *wanted])});
  if v_names is not null then
    raise exception 'a newer release was here: %', v_names using hint = 'Print with that release or a later one.';
  end if;
  select string_agg(name, ', ' order by name) into v_names from worker.schema_versions
  where name = any ({_array(file.name for file in wanted)});
  if v_names is not null then
    raise exception 'applied here already: %', v_names
      using hint = 'Print with --since N, N being the last applied number.';
  end if;
  select string_agg(name, ', ' order by name) into v_names from unnest({_array(file.name for file in earlier)}) name
  where name not in (select applied.name from worker.schema_versions applied);
  if v_names is not null then
    raise exception 'not applied here yet: %', v_names using hint = 'Print with a smaller --since.';
  end if;
  select string_agg(name, ', ' order by name) into v_names from worker.schema_versions
  where name = any ({_array(file.name for file in earlier)})
    and checksum <> all ({_array(file.checksum for file in earlier)});
  if v_names is not null then
    raise exception 'changed after they were applied here: %', v_names
      using hint = 'Put them back and write the change as a new migration.';
  end if;
end $$;"""


def _array(items: Iterable[str]) -> str:
    return "array[" + ", ".join(f"'{item}'" for item in items) + "]::text[]"


def _record(file: SqlFile) -> str:
    return (
        f"insert into worker.schema_versions (name, checksum) values ('{file.name}', '{file.checksum}')\n"
        "on conflict (name) do update set checksum = excluded.checksum, applied_at = now();"
    )


def install_supabase_stubs(database_url: str) -> bool:
    """Supabase's roles, `auth` and `storage`, as far as this project uses them, for plain Postgres.

    False where auth.users is there already, made so before or by Supabase: then nothing is touched. Raises
    MigrationError.
    """
    try:
        with psycopg.connect(database_url) as connection:
            found = connection.execute("select to_regclass('auth.users') is not null").fetchone()
            if found and found[0]:
                return False
            _run(connection, (sql_folder() / "supabase_stubs.sql").read_text())
            return True
    except psycopg.Error as error:
        raise MigrationError(f"supabase_stubs.sql: {_explain(error)}") from error

"""Apply `sql/` and the SQL of installed packages to a database, in one transaction; or mend what it lost since.

`printed.py` prints the same as one plain SQL file for `supabase/migrations/`. Both ways may be mixed, because they
record the same versions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from worker.database.connections import OwnConnection
from worker.database.errors import explain_connection
from worker.database.schema.catalog import Damage, find_damage, summarize
from worker.database.schema.sql_files import MigrationError as MigrationError  # for those who call migrate
from worker.database.schema.sql_files import Package, Release, SqlFile, sql_folder, this_release

SCHEMA_MAJOR = 1
"""The major version of the schema that this code supports; pods refuse a newer one."""

LOCK = """do $$ begin
  if to_regclass('worker.schema_versions') is null then
    perform pg_advisory_xact_lock(hashtextextended('likeness migrate', 0));
  end if;
  if to_regclass('worker.schema_versions') is not null then
    lock table worker.schema_versions in share row exclusive mode;
  end if;
end $$"""
"""One migration at a time. Anybody who can connect may take an advisory lock, so it is only for the first migration,
when there is no table yet that nobody else can lock."""

Ledger = Mapping[tuple[str | None, str], str]
"""Checksums of the files that were applied, by package (None: the project's own) and name."""


Warn = Callable[[str], None]
"""Receives what the server warns of: something of another role that was skipped, and what does not work then."""


@dataclass(frozen=True)
class Repair:
    """What a repair mended, what it could not mend, and the files that it applied."""

    mended: list[Damage]
    left: list[Damage]
    files: list[str]


def migrate(
    database_url: str,
    folder: Path | None = None,
    *,
    packages: Sequence[Package] | None = None,
    without: Collection[str] = (),
    warn: Warn | None = None,
) -> list[str]:
    """Bring the database up to date in one transaction; returns the names of the files that ran.

    Args:
        packages: packages whose SQL is also applied; by default, the installed ones.
        without: packages to leave out, whether or not they are installed here.

    Raises MigrationError if the connection or a file fails, an applied file was edited, a newer release was applied, or
    a package is not installed; nothing is changed then.
    """
    release = this_release(folder, packages, without)
    with _migration(database_url, release, warn) as connection:
        pending = pending_files(read_ledger(connection), release, without)
        if pending:
            _run(connection, (release.folder / "locks.sql").read_text())
            _apply_all(connection, pending)
    return _names(pending)


def repair(
    database_url: str,
    folder: Path | None = None,
    *,
    packages: Sequence[Package] | None = None,
    without: Collection[str] = (),
    warn: Warn | None = None,
) -> Repair:
    """Mend what the database lost since the newest migration, then migrate as `migrate` does, in one transaction.

    What numbered files made is made again as it was recorded; the repeatable files do the rest. Raises MigrationError.
    """
    release = this_release(folder, packages, without)
    with _migration(database_url, release, warn) as connection:
        pending = pending_files(read_ledger(connection), release, without)
        if not any(file.number for file in pending):
            _run(connection, (release.folder / "catalog.sql").read_text())  # the comparison may be damaged too
        lost = find_damage(connection)
        files = pending or (release.repeatable if lost else [])
        if files:
            _run(connection, (release.folder / "locks.sql").read_text())
            _repair_catalog(connection)
            try:
                _apply_all(connection, files)
            except MigrationError as error:  # a lost column, say, which a file needs
                raise MigrationError(f"{error} What was lost: {summarize(lost)}.") from error
            _repair_catalog(connection, owners_only=True)
        left = find_damage(connection)
    return Repair([each for each in lost if each not in left], left, _names(files))


def _repair_catalog(connection: OwnConnection, *, owners_only: bool = False) -> None:
    # A schema of an older release has recorded nothing, and no function to repair with.
    _run(
        connection,
        "do $$ begin if to_regprocedure('worker.repair_catalog(boolean)') is not null then "
        f"perform worker.repair_catalog({str(owners_only).lower()}); end if; end $$",
    )


def damage(database_url: str) -> list[Damage]:
    """Return what the database lost since the newest migration, without changing it. Raises MigrationError."""
    try:
        with OwnConnection.open(database_url, "likeness migrate") as connection:
            return find_damage(connection)
    except psycopg.Error as error:
        raise MigrationError(_explain(error)) from error


@contextmanager
def _migration(database_url: str, release: Release, warn: Warn | None) -> Iterator[OwnConnection]:
    """Open the transaction of a migration, after the checks of server, database and login."""
    try:
        with OwnConnection.open(database_url, "likeness migrate") as connection, connection.transaction():
            if warn is not None:
                connection.add_notice_handler(lambda notice: _pass_on(notice, warn))
            _run(connection, (release.folder / "server.sql").read_text())
            _run(connection, LOCK)
            _run(connection, (release.folder / "preflight.sql").read_text())
            yield connection
    except psycopg.Error as error:
        raise MigrationError(_explain(error)) from error


def _pass_on(notice: psycopg.errors.Diagnostic, warn: Warn) -> None:
    if notice.severity_nonlocalized == "WARNING":
        warn(f"{notice.message_primary}. {notice.message_hint or ''}".strip())


def _names(files: Sequence[SqlFile]) -> list[str]:
    return [file.name if file.package is None else f"{file.package}: {file.name}" for file in files]


def read_ledger(connection: OwnConnection) -> dict[tuple[str | None, str], str]:
    """Return the checksums of the files that were applied to this database."""
    rows = connection.execute("select null as package, name, checksum from worker.schema_versions").fetchall()
    found = connection.execute("select to_regclass('worker.kind_versions') is not null as found").fetchone()
    if found and found["found"]:
        rows += connection.execute("select package, name, checksum from worker.kind_versions").fetchall()
    return {(row["package"], row["name"]): row["checksum"] for row in rows}


def pending_files(applied: Ledger, release: Release, without: Collection[str] = ()) -> list[SqlFile]:
    """Return the files that a database with these applied files still needs, in order.

    Raises MigrationError if an applied file was edited, a newer release was applied, or a package is not installed.
    """
    numbered = release.numbered
    _check_packages({package for package, _ in applied if package}, release, without)
    known = {file.key for file in numbered}
    newer = sorted(key for key in applied if key[1][:4].isdigit() and key not in known and key[0] not in without)
    if newer:
        names = ", ".join(name if package is None else f"{package}: {name}" for package, name in newer)
        raise MigrationError(
            f"a newer release was here: this one does not know {names}, and would put old functions back. "
            "Migrate with that release or a later one; nothing was changed."
        )
    for file in numbered:
        if file.key in applied and applied[file.key] != file.checksum:
            raise MigrationError(
                f"{_place(file)} was changed after it was applied here. "
                "Put it back and write the change as a new migration; nothing was changed."
            )
    if all(applied.get(file.key) == file.checksum for file in release.files):
        return []
    return [file for file in release.files if file.number is None or file.key not in applied]


def _check_packages(in_database: set[str], release: Release, without: Collection[str]) -> None:
    missing = sorted(in_database - {package.name for package in release.packages} - set(without))
    if missing:
        raise MigrationError(
            f"the database has kinds of job of {', '.join(missing)}, which is not installed here. Install it, or "
            f"migrate with {' '.join(f'--without {name}' for name in missing)}; nothing was changed."
        )


def _place(file: SqlFile) -> str:
    return f"sql/migrations/{file.name}.sql" if file.package is None else str(file)


def _apply_all(connection: OwnConnection, files: Sequence[SqlFile]) -> None:
    for file in files:
        _apply(connection, file)
    _run(connection, "notify pgrst, 'reload schema'")


def _apply(connection: OwnConnection, file: SqlFile) -> None:
    try:
        if file.package is not None:
            connection.execute(
                "select worker.apply_package_file(%s::text, %s::text, %s::text, %s::text)",
                (file.package, file.name, file.checksum, file.text),
            )
            return
        _run(connection, file.text)
    except psycopg.Error as error:
        where = "" if file.package else f"{file.name}.sql: "
        raise MigrationError(f"{where}{_explain(error)} Nothing was changed.") from error
    connection.execute(
        "insert into worker.schema_versions (name, checksum) values (%s, %s) "
        "on conflict (name) do update set checksum = excluded.checksum, applied_at = now()",
        (file.name, file.checksum),
    )


def _run(connection: OwnConnection, text: str) -> None:
    # As bytes: the files are our own, and without parameters psycopg sends them as they are.
    connection.execute(text.encode())


def _explain(error: psycopg.Error) -> str:
    if error.sqlstate is None:  # without SQLSTATE, no server was reached
        return str(explain_connection(error, "DATABASE_URL"))
    hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
    if isinstance(error, psycopg.errors.InsufficientPrivilege) and not hint:
        hint = " It belongs to another role, of which the login that migrates is not a member."
    elif isinstance(error, psycopg.errors.UndefinedObject) and 'language "plpgsql"' in str(error):
        hint = " As the database's owner: create extension plpgsql;"
    return f"{error.diag.message_primary or str(error).strip()}.{hint}"


def install_supabase_stubs(database_url: str) -> bool:
    """Create stubs of Supabase's roles, `auth` and `storage` on plain Postgres, as far as this project uses them.

    Return False, without a change, if auth.users exists already. Raises MigrationError.
    """
    try:
        with OwnConnection.open(database_url, "likeness migrate") as connection, connection.transaction():
            _run(connection, (sql_folder() / "server.sql").read_text())
            found = connection.execute("select to_regclass('auth.users') is not null as found").fetchone()
            if found and found["found"]:
                return False
            _run(connection, (sql_folder() / "supabase_stubs.sql").read_text())
            return True
    except psycopg.Error as error:
        raise MigrationError(f"supabase_stubs.sql: {_explain(error)}") from error

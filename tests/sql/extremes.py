"""The extremes of each type: what Postgres allows, and Python, JSON or a client library may not hold."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from tests.sql.tables import AppTables

DEEP = "[" * 3000 + "]" * 3000
LONG_NUMBER = "9" * 5000

EXTREMES: dict[str, tuple[str, ...]] = {
    "timestamp with time zone": (
        "infinity",
        "-infinity",
        "4714-11-24 00:00:00+00 BC",
        "294276-12-31 23:59:59+00",
        "9999-12-31 23:30:00-02",
        "0001-01-01 00:30:00+02",
    ),
    "interval": ("infinity", "-infinity", "178000000 years", "-178000000 years", "1 mon -29 days"),
    "real": ("NaN", "Infinity", "-Infinity", "3.4028235e38", "1e-45", "-0"),
    "double precision": ("NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "-0"),
    "integer": ("2147483647", "-2147483648"),
    "bigint": ("9223372036854775807", "-9223372036854775808"),
    "text": ("", "\x01\x1b[31m\x7f\u202e\ufffe\U0001f600", "x" * 100_000),
    "jsonb": (
        f'{{"deep": {DEEP}}}',
        f'{{"long": {LONG_NUMBER}}}',
        '{"large": 1e400}',
        '{"small": 1e-400}',
        "[]",
        "null",
    ),
    "text[]": ("{}", "[5:5]={x}", "{{x},{x}}", "{NULL}"),
    "uuid[]": ("{}", f"[5:5]={{{'0' * 32}}}", f"{{{{{'0' * 32}}},{{{'0' * 32}}}}}", "{NULL}"),
    "real[]": ("{}", "[5:5]={1}", "{{1},{1}}", "{NULL}", "{NaN}", "{Infinity}"),
    "uuid": (),
    "boolean": (),
}
"""As literals, by type. Every type of the tables below is listed."""

TABLES = (
    "public.subjects",
    "public.subject_photos",
    "public.subjects_models",
    "public.presets",
    "public.training_jobs",
    "public.generation_jobs",
    "public.mesh_jobs",
    "worker.internal_jobs",
    "worker.config",
    "worker.base_models",
    "worker.job_kinds",
)


@dataclass(frozen=True)
class Column:
    """A column of the catalog."""

    table: str
    name: str
    type: str

    @property
    def identifiers(self) -> tuple[sql.Identifier, sql.Identifier]:
        """Return table and column for a statement."""
        return sql.Identifier(*self.table.split(".")), sql.Identifier(self.name)

    @property
    def extremes(self) -> tuple[str, ...]:
        return EXTREMES[self.type]


def columns(db: AppTables, *tables: str) -> list[Column]:
    """Return every column of these tables, or of all TABLES, as the catalog has it."""
    rows = db.run(
        """select relnamespace::regnamespace || '.' || relname as name, attname, format_type(atttypid, null) as type
           from pg_attribute join pg_class on pg_class.oid = attrelid
           where attrelid = any(%s::regclass[]) and attnum > 0 and not attisdropped order by 1, attnum""",
        list(tables or TABLES),
    )
    return [Column(row["name"], row["attname"], row["type"]) for row in rows]


def drop_checks(db: AppTables, *tables: str) -> None:
    """Drop every CHECK of these tables, as if an earlier release had written their rows."""
    checks = "select conrelid::regclass as name, conname from pg_constraint where contype = 'c'"
    for row in db.run(f"{checks} and conrelid = any(%s::regclass[])", list(tables)):
        db.run(f'alter table {row["name"]} drop constraint "{row["conname"]}"')

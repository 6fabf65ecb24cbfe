"""What the catalog of a migrated database says: tables with their columns and rights, and functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

CLIENTS = {"authenticated": "user", "service_role": "backend", "likeness_worker": "pod"}
"""Roles that may be granted something, and how the pages call them."""

_RELATIONS = """
select
  relnamespace::regnamespace::text as schema, relname as name, relkind = 'v' as is_view,
  obj_description(oid, 'pg_class') as comment,
  array(select role from unnest(%(roles)s::text[]) role where has_table_privilege(role, oid, 'select')) as readers,
  array(select role from unnest(%(roles)s::text[]) role where has_table_privilege(role, oid, 'delete')) as deleters,
  array(select conname::text from pg_constraint
        where conrelid = pg_class.oid and contype = 'c' order by conname) as limits,
  array(select policyname::text from pg_policies
        where schemaname = relnamespace::regnamespace::text and tablename = relname
        order by policyname) as policies
from pg_class
where relnamespace in ('public'::regnamespace, 'worker'::regnamespace) and relkind in ('r', 'p', 'v')
order by relnamespace::regnamespace::text, relkind, relname
"""

_COLUMNS = """
select
  attname as name, format_type(atttypid, atttypmod) as type, pg_get_expr(adbin, adrelid) as default,
  attnotnull as needed, attidentity <> '' as counted, col_description(attrelid, attnum) as comment,
  array(select role from unnest(%(roles)s::text[]) role
        where has_column_privilege(role, attrelid, attnum, 'insert')) as inserters,
  array(select role from unnest(%(roles)s::text[]) role
        where has_column_privilege(role, attrelid, attnum, 'update')) as updaters
from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
where attrelid = (%(schema)s || '.' || quote_ident(%(name)s))::regclass and attnum > 0 and not attisdropped
order by attnum
"""

_FUNCTIONS = """
select
  pronamespace::regnamespace::text as schema, proname as name, pg_get_function_arguments(oid) as arguments,
  pg_get_function_result(oid) as result, obj_description(oid, 'pg_proc') as comment,
  array(select role from unnest(%(roles)s::text[]) role where has_function_privilege(role, oid, 'execute')) as callers
from pg_proc where pronamespace in ('public'::regnamespace, 'worker'::regnamespace)
order by 1, 2
"""


@dataclass(frozen=True)
class Relation:
    """A table or view. Roles are named as in the catalog."""

    schema: str
    name: str
    is_view: bool
    comment: str
    readers: list[str]
    deleters: list[str]
    limits: list[str]
    policies: list[str]


@dataclass(frozen=True)
class Column:
    """A column of a table or view."""

    name: str
    type: str
    default: str | None
    needed: bool
    counted: bool
    comment: str | None
    inserters: list[str]
    updaters: list[str]


@dataclass(frozen=True)
class Function:
    """A function and who may call it."""

    schema: str
    name: str
    arguments: str
    result: str
    comment: str
    callers: list[str]


def relations(connection: psycopg.Connection[Any]) -> list[Relation]:
    """Tables and views of `public` and `worker`, tables first."""
    with connection.cursor(row_factory=class_row(Relation)) as cursor:
        return cursor.execute(_RELATIONS, {"roles": list(CLIENTS)}).fetchall()


def columns(connection: psycopg.Connection[Any], relation: Relation) -> list[Column]:
    """The columns of a table or view, in order."""
    with connection.cursor(row_factory=class_row(Column)) as cursor:
        parameters = {"roles": list(CLIENTS), "schema": relation.schema, "name": relation.name}
        return cursor.execute(_COLUMNS, parameters).fetchall()


def functions(connection: psycopg.Connection[Any]) -> list[Function]:
    """Functions of `public` and `worker`."""
    with connection.cursor(row_factory=class_row(Function)) as cursor:
        return cursor.execute(_FUNCTIONS, {"roles": list(CLIENTS)}).fetchall()


def called(roles: list[str]) -> str:
    """Roles as the pages call them."""
    return ", ".join(CLIENTS[role] for role in roles)


def shortened(text: str) -> str:
    """A type, a default or a signature as a person writes it: 'admin' for 'admin'::text, timestamptz."""
    without_casts = re.sub(r"::[a-z ]*[a-z](\[\])?", "", text)
    return (
        without_casts.replace("timestamp with time zone", "timestamptz")
        .replace(" DEFAULT ", " = ")
        .replace("NULL", "null")
    )

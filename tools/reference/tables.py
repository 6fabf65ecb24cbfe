"""docs/reference/tables.md, from the catalog of a migrated database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from tools.reference.catalog import Column, Relation, called, columns, relations, shortened
from tools.reference.markdown import code, page, table

INTRODUCTION = """
Schema `public` is what an app sees, through PostgREST and under row-level security. Schema `worker` is not exposed;
grants guard it. A **user** is signed in (`authenticated`), the **backend** is your server (`service_role`), a **pod**
is a login in `likeness_worker`; `anon` may do nothing anywhere. *Insert* and *Update* say who may set a column; where
they are empty, only the database's own functions do. [Functions](functions.md) are what changes the rest.
"""

FIRST = ("subjects", "subject_photos", "subjects_models", "presets", "training_jobs", "generation_jobs")
"""The order in which an app meets the tables; others follow by name."""

WHO = ("id", "owner_id", "subject_id")
"""Life-cycle columns that the request sets: they are shown with each table."""


def tables_page(connection: psycopg.Connection[Any]) -> str:
    """Return the page: app tables, the columns that all job tables share, the worker's tables and views."""
    found = {relation.name: relation for relation in relations(connection)}
    shared = found.pop("life_cycle")
    life_cycle = columns(connection, found["training_jobs"])
    names = {column.name for column in columns(connection, shared)}
    life_cycle = [column for column in life_cycle if column.name in names and column.name not in WHO]
    parts = ["## Tables an app sees"]
    for relation in sorted(found.values(), key=_place):
        if relation.schema == "public":
            parts.append(_app_table(relation, columns(connection, relation), names, shared.limits))
    parts += ["## Life-cycle columns", "Every job table has them.", _client_columns(life_cycle), _limits(shared)]
    for title, views in (("Tables of the worker", False), ("Views of the worker", True)):
        parts.append(f"## {title}")
        for relation in found.values():
            if relation.schema == "worker" and relation.is_view == views:
                parts.append(_worker_table(relation, columns(connection, relation), names, shared.limits))
    return page("Tables", INTRODUCTION, *parts)


def _place(relation: Relation) -> tuple[int, str]:
    return (FIRST.index(relation.name) if relation.name in FIRST else len(FIRST), relation.name)


def _app_table(relation: Relation, found: list[Column], life_cycle: set[str], shared_limits: list[str]) -> str:
    own, note = _without_life_cycle(found, life_cycle)
    rights = f"Read: {called(relation.readers)}."
    if relation.deleters:
        rights += f" Delete: {called(relation.deleters)}."
    if relation.policies:
        rights += f" Rows: {'; '.join(relation.policies)}. The backend reaches all rows."
    parts = [f"### {relation.name}", relation.comment, _client_columns(own), note]
    return "\n\n".join(part for part in [*parts, _limits(relation, shared_limits), rights] if part)


def _worker_table(relation: Relation, found: list[Column], life_cycle: set[str], shared_limits: list[str]) -> str:
    parts = [f"### worker.{relation.name}", relation.comment]
    if not relation.name.startswith("pgqueuer"):  # pgqueuer's documentation says what its columns are
        own, note = _without_life_cycle(found, life_cycle)
        rows = [[code(column.name), _type(column), column.comment or ""] for column in own]
        parts += [table(["Column", "Type", "Meaning"], rows), note, _limits(relation, shared_limits)]
    parts.append(f"Read: {', '.join(['owner', *filter(None, [called(relation.readers)])])}.")
    return "\n\n".join(part for part in parts if part)


def _without_life_cycle(found: list[Column], life_cycle: set[str]) -> tuple[list[Column], str]:
    """Return the columns of a job table without the shared ones, and a note about those; other tables unchanged."""
    if not life_cycle <= {column.name for column in found}:
        return found, ""
    own = [column for column in found if column.name not in life_cycle or column.name in WHO]
    return own, "And the [life-cycle columns](#life-cycle-columns)."


def _client_columns(found: list[Column]) -> str:
    return table(
        ["Column", "Type", "Meaning", "Insert", "Update"],
        [
            [code(column.name), _type(column), column.comment or "", called(column.inserters), called(column.updaters)]
            for column in found
        ],
    )


def _type(column: Column) -> str:
    kind = code(shortened(column.type))
    if column.default is not None:
        return f"{kind}, default {code(shortened(column.default))}"
    return kind + (", needed" if column.needed and not column.counted else "")


def _limits(relation: Relation, known: Sequence[str] = ()) -> str:
    """The constraints' names are sentences."""
    own = [limit for limit in relation.limits if limit not in known]
    sentences = [limit.removeprefix(f"{relation.name}_").replace("_", " ") for limit in own]
    return f"Limits: {'; '.join(sentences)}." if sentences else ""

"""What the database's catalog lacks of what the newest migration left there (`sql/catalog.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row, scalar_row

DAMAGE = "select object, problem from worker.catalog_damage() order by step, object"


@dataclass(frozen=True)
class Damage:
    """One object that is not as the newest migration left it, and how it differs."""

    object: str
    problem: str

    @property
    def is_an_apps_own(self) -> bool:
        """A policy that an app added to a table of this project: it may be meant."""
        return self.problem == "added" and self.object.startswith("policy ")

    def __str__(self) -> str:
        return f"{self.object}: {self.problem}"


def find_damage(connection: psycopg.Connection[Any]) -> list[Damage]:
    """Return what differs, as the owner; nothing if the schema is of a release that recorded nothing."""
    known = connection.cursor(row_factory=scalar_row).execute("select to_regprocedure('worker.catalog_damage()')")
    if known.fetchone() is None:
        return []
    return connection.cursor(row_factory=class_row(Damage)).execute(DAMAGE).fetchall()


def summarize(damage: Sequence[Damage], limit: int = 5) -> str:
    """Return the first `limit` in words, and how many more there are."""
    more = f" and {len(damage) - limit} more" if len(damage) > limit else ""
    return "; ".join(map(str, damage[:limit])) + more

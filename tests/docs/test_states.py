"""The page of states has every status, error code, cancel code and event, and names functions that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import TEMPLATE, Databases
from tests.docs.blocks import ROOT, pages
from worker.errors import BY_CODE

PAGE = pages()["docs/states.md"]


@pytest.fixture(scope="module")
def catalog(databases: Databases) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(databases.server.url(TEMPLATE)) as connection:
        yield connection


def rows(first_heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column has this heading, without the heading."""
    (table,) = re.findall(rf"^\| {re.escape(first_heading)} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in table.splitlines()]


def first_cells(first_heading: str) -> set[str]:
    """Return the code spans of a table's first column."""
    return {name for row in rows(first_heading) for name in re.findall(r"`(\w+)`", row[0])}


def allowed_values(catalog: psycopg.Connection[Any], table: str, constraint: str) -> set[str]:
    """Return the values that a CHECK constraint lists."""
    row = catalog.execute(
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and conname = %s",
        (table, constraint),
    ).fetchone()
    assert row is not None
    return set(re.findall(r"'(\w+)'", row[0]))


def test_the_diagram_and_the_tables_have_every_status(catalog: psycopg.Connection[Any]) -> None:
    statuses = allowed_values(catalog, "worker.life_cycle", "status_is_known")
    drawn = (ROOT / "docs" / "images" / "job-states.svg").read_text()
    assert set(re.findall(r"<text[^>]*>([a-z]+)</text>", drawn)) - {"publishes", "insert"} == statuses
    assert first_cells("`status`") == statuses
    transitions = {status for row in rows("From") for cell in row[:2] for status in re.findall(r"`(\w+)`", cell)}
    assert transitions == statuses


def test_every_transition_says_by_what_and_whether_it_counts_as_a_failure() -> None:
    assert {(len(row), bool(row[2]), row[4] in ("yes", "no")) for row in rows("From")} == {(5, True, True)}


def test_every_event_has_a_meaning(catalog: psycopg.Connection[Any]) -> None:
    assert first_cells("`event`") == allowed_values(catalog, "worker.job_events", "job_events_event_is_known")


def test_every_cancel_code_has_a_meaning(catalog: psycopg.Connection[Any]) -> None:
    assert first_cells("`cancel_code`") == allowed_values(catalog, "worker.life_cycle", "cancel_code_is_known")


def test_every_error_code_says_when_it_is_retried_as_the_database_does(catalog: psycopg.Connection[Any]) -> None:
    documented = {re.findall(r"`(\w+)`", row[0])[0]: row[2] for row in rows("`error_code`")}
    assert set(documented) == set(BY_CODE)
    for code, retried in documented.items():
        row = catalog.execute("select worker.is_retried(%s), worker.is_fault_of_pod(%s)", (code, code)).fetchone()
        assert row is not None
        assert (retried != "never", "on another pod" in retried) == row, code

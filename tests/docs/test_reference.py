"""The generated reference pages match the code and the catalog."""

from __future__ import annotations

import pytest

from tests.conftest import TEMPLATE, Databases
from tests.sql.test_failures_and_cancel import NEVER_RETRIED, RETRIED
from tools.reference.__main__ import FOLDER
from tools.reference.errors import retries
from tools.reference.pages import render
from worker.errors import BY_CODE


@pytest.fixture(scope="module")
def generated(databases: Databases) -> dict[str, str]:
    return render(databases.server.url(TEMPLATE))


@pytest.mark.parametrize("name", ["tables.md", "functions.md", "settings.md", "commands.md", "errors.md", "sources.md"])
def test_the_committed_page_matches_the_code(generated: dict[str, str], name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == generated[name], "run: python -m tools.reference"


def test_no_other_page_exists(generated: dict[str, str]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(generated)


def test_codes_are_described_as_the_database_retries_them() -> None:
    """tests.sql.test_failures_and_cancel.py proves for these codes that the database does so."""
    assert set(retries()) == set(BY_CODE)
    described = {text: {code for code in retries() if retries()[code] == text} for text in retries().values()}
    assert described["never retried"] == set(NEVER_RETRIED)
    assert described["retried with backoff"] == set(RETRIED)


def test_hidden_options_are_not_in_the_reference(generated: dict[str, str]) -> None:
    assert "--supabase-stubs" in generated["commands.md"]
    assert "--stand-ins" not in generated["commands.md"]

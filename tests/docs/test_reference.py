"""Settings, tables, functions, commands and error codes of the documentation are those of the code and the catalog."""

from __future__ import annotations

import pytest

from tests.conftest import TEMPLATE, Databases
from tools.reference.__main__ import FOLDER
from tools.reference.errors import retries
from tools.reference.pages import render
from worker.errors import BY_CODE


@pytest.fixture(scope="module")
def made(databases: Databases) -> dict[str, str]:
    return render(databases.server.url(TEMPLATE))


@pytest.mark.parametrize("name", ["tables.md", "functions.md", "settings.md", "commands.md", "errors.md", "sources.md"])
def test_the_committed_page_is_what_the_code_makes(made: dict[str, str], name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == made[name], "run: python -m tools.reference"


def test_there_is_no_other_page(made: dict[str, str]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(made)


def test_what_is_said_about_trying_again_is_what_the_worker_does() -> None:
    assert set(retries()) == set(BY_CODE)
    assert {code for code, text in retries().items() if text == "never retried"} == {
        code for code, error in BY_CODE.items() if not error.retryable
    }

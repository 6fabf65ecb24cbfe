"""Every code block of the documentation is run or checked. A block in an unknown language fails."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import yaml

from tests.conftest import Databases
from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.shell import calls, problems, sql_of
from worker import errors
from worker.guard import consent
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease
from worker.settings import Settings, variable

ELSEWHERE = {"examples/supabase-js.md": "tests/examples/test_supabase_js.py"}
"""Pages whose SQL and JavaScript another test runs."""

ONE_ID = "6a050000-0000-4000-8000-000000000000"
"""Replaces every abbreviated id of a page: a user, a subject, a LoRA and a job of each kind have this id."""

EXAMPLE_ROWS = f"""
insert into auth.users (id) values ('{ONE_ID}');
insert into public.subjects (id, owner_id, name, subject_is_adult) values ('{ONE_ID}', '{ONE_ID}', 'Ada', true);
select public.grant_consent('{ONE_ID}');
insert into public.subject_photos (subject_id, path)
  select '{ONE_ID}', '{ONE_ID}/{ONE_ID}/photos/' || number || '.jpg' from generate_series(1, 4) number;
insert into public.subjects_models (id, subject_id, version, base, family, path, sha256, rank, trigger_word)
  values ('{ONE_ID}', '{ONE_ID}', 1, 'flux-dev', 'flux', 'nowhere', repeat('0', 64), 16, 'ohwx');
insert into public.training_jobs (id, subject_id) values ('{ONE_ID}', '{ONE_ID}');
select public.cancel_job('training', '{ONE_ID}');
insert into public.generation_jobs (id, subject_id, prompt) values ('{ONE_ID}', '{ONE_ID}', 'in a garden');
"""

BLOCKS = blocks()
PAGES_WITH_SQL = sorted({block.page for block in BLOCKS if block.language == "sql"} - set(ELSEWHERE))


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[psycopg.Connection[Any]]:
    """A migrated database with an object for every abbreviated id of a page."""
    with databases.fresh() as url, psycopg.connect(url) as connection:
        connection.execute(EXAMPLE_ROWS.encode())
        connection.commit()
        yield connection


@pytest.mark.parametrize("page", PAGES_WITH_SQL)
def test_sql_runs(database: psycopg.Connection[Any], page: str) -> None:
    """The whole page in order, as the owner, in a transaction that is rolled back."""
    with database.transaction(force_rollback=True):
        for block in BLOCKS:
            if block.page == page and block.language in ("sql", "sh"):
                for text in [block.text] if block.language == "sql" else sql_of(block.text):
                    try:
                        database.execute(re.sub(r"(?<=['/{])[0-9a-f]*…(?=['/])", ONE_ID, text).encode())
                    except psycopg.Error as error:
                        pytest.fail(f"{block}: {error}")


def shell_is_known(block: Block) -> None:
    """Check that programs, commands, options, targets, files and settings exist."""
    assert [problem for call in calls(block.text) for problem in problems(call)] == []


def python_compiles(block: Block) -> None:
    """Check the syntax, and that imports from this project and attributes of its objects exist."""
    tree = compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    ours: dict[str, Any] = {"lease": Lease, "tools": JobContext, "consent": consent, "errors": errors}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "worker":
            exec(compile(ast.Module([node], []), str(block), "exec"), {})
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            of = ours[node.value.id]
            assert node.attr in {*dir(of), *inspect.get_annotations(of), *_attributes(of)}, (
                f"{node.value.id}.{node.attr}"
            )


def _attributes(of: Any) -> set[str]:
    """Return the attributes of a module or of a class's instances."""
    return {*dir(of), *inspect.get_annotations(of), *re.findall(r"\bself\.(\w+)\b", inspect.getsource(of))}


def dotenv_holds_settings(block: Block) -> None:
    names = {line.partition("=")[0].lstrip("#") for line in block.text.splitlines() if "=" in line}
    assert names <= {variable(name) for name in Settings.model_fields}


def is_run_elsewhere(block: Block) -> None:
    assert (ROOT / ELSEWHERE[block.page]).exists()


def is_sql_that_runs(block: Block) -> None:
    """Check that `test_sql_runs` runs the page as a whole: later blocks use the rows of earlier ones."""
    assert block.page in PAGES_WITH_SQL or block.page in ELSEWHERE


CHECKS: dict[str, Callable[[Block], object]] = {
    "sql": is_sql_that_runs,
    "sh": shell_is_known,
    "python": python_compiles,
    "json": lambda block: json.loads(block.text),
    "toml": lambda block: tomllib.loads(block.text),
    "yaml": lambda block: yaml.safe_load(block.text),
    "dotenv": dotenv_holds_settings,
    "js": is_run_elsewhere,
    "text": lambda block: None,  # trees and output of programs: nothing to check
}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_is_valid_in_its_language(block: Block) -> None:
    assert block.language in CHECKS, f"{block}: give it one of {', '.join(CHECKS)}"
    CHECKS[block.language](block)

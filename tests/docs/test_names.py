"""What the documentation calls by name is there: files, settings, commands, and what lies in schema `worker`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import TEMPLATE, Databases
from tests.docs.blocks import ROOT, pages, prose
from tests.docs.shell import VARIABLES, calls, problems

FILE = re.compile(r"(worker|sql|tests|docs|examples|tools|bench)/[\w./-]+\.\w+|[\w.-]+\.(md|toml|yaml)")
SETTING = re.compile(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(=.*)?")
COMMAND = re.compile(r"(worker|make) [a-z]")
IN_WORKER = re.compile(r"worker\.[a-z_]+(\.[a-z_]+)?(?![\w.…*])")

FROM_ELSEWHERE = "docs/coming-from/"
"""Pages whose tables name other systems' things, in every column but the last."""

NOT_SETTINGS = frozenset({"PROJECT_REF", "PUBLISHABLE_KEY", "HF_ENDPOINT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"})
"""Names in capitals that stand for something else, or that libraries read."""

MADE = {f"docs/reference/{path.name}" for path in (ROOT / "docs" / "reference").glob("*.md")}
"""Pages that `test_reference.py` compares with what they are made from."""

TO_BE_WRITTEN = frozenset({"worker/handlers/caption.py"})
"""Files that a reader is told to make."""

CATALOG = """
select 'worker.' || relname from pg_class where relnamespace = 'worker'::regnamespace
union select 'worker.' || proname from pg_proc where pronamespace = 'worker'::regnamespace
union select 'worker.' || relname || '.' || attname from pg_class join pg_attribute on attrelid = pg_class.oid
where relnamespace = 'worker'::regnamespace
"""


def spans(page: str, text: str) -> Iterator[str]:
    """What stands in the typeface of code, outside of blocks."""
    for line in prose(text).splitlines():
        is_row = page.startswith(FROM_ELSEWHERE) and line.startswith("|")
        yield from re.findall(r"`([^`]+)`", line.rstrip(" |").rpartition("|")[2] if is_row else line)


SPANS = [(page, span) for page, text in pages().items() if page not in MADE for span in spans(page, text)]


def test_files_are_there() -> None:
    named = {(page, span) for page, span in SPANS if FILE.fullmatch(span)}
    assert len(named) > 20
    assert {(page, name) for page, name in named if not _exists(page, name)} == set()


def _exists(page: str, name: str) -> bool:
    return name in TO_BE_WRITTEN or (ROOT / name).exists() or (ROOT / page).parent.joinpath(name).exists()


def test_the_tree_in_the_readme_names_folders_that_are_there() -> None:
    (tree,) = re.findall(r"^```text\n(worker/.*?)^```", pages()["README.md"], re.MULTILINE | re.DOTALL)
    names = re.findall(r"^( *)([\w-]+)/", tree, re.MULTILINE)
    assert len(names) > 5
    assert [name for indent, name in names if not (ROOT / ("worker" if indent else "") / name).is_dir()] == []


def test_settings_are_there() -> None:
    named = {(page, match[1]) for page, span in SPANS if (match := SETTING.fullmatch(span))}
    assert len(named) > 20
    assert {(page, name) for page, name in named if name not in VARIABLES | NOT_SETTINGS} == set()


def test_commands_and_targets_are_there() -> None:
    named = {(page, span) for page, span in SPANS if COMMAND.match(span)}
    assert len(named) > 20
    found = {(page, wrong) for page, span in named for call in calls(_plain(span)) for wrong in problems(call)}
    assert {(page, wrong) for page, wrong in found if " needs " not in wrong} == set()


def _plain(command: str) -> str:
    """Without the brackets of what may be left out, and the first of what may be chosen."""
    return re.sub(r"\|\w+", "", re.sub(r"[\[\]]", "", command))


@pytest.fixture(scope="module")
def catalog(databases: Databases) -> set[str]:
    """Tables, views, functions and columns of schema worker, as worker.x and worker.x.y."""
    with psycopg.connect(databases.server.url(TEMPLATE)) as connection:
        return {name for (name,) in connection.execute(CATALOG)}


def test_what_lies_in_worker_is_there(catalog: set[str]) -> None:
    """Schema or package: both have that name."""
    named = {(page, match[0]) for page, span in SPANS if (match := IN_WORKER.match(span))}
    assert len(named) > 20
    modules = {name for _, name in named if name.count(".") == 1 and importlib.util.find_spec(name)}
    unknown = {(page, name) for page, name in named if name not in catalog | modules}
    assert {(page, name) for page, name in unknown if not _is_member(name)} == set()


def _is_member(name: str) -> bool:
    """Whether this is something in a module, such as worker.settings.Settings."""
    module, _, member = name.rpartition(".")
    return module != "worker" and hasattr(importlib.import_module(module), member)


def test_the_diagram_and_the_table_of_states_have_every_status(databases: Databases) -> None:
    with psycopg.connect(databases.server.url(TEMPLATE)) as connection:
        row = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = 'status_is_known' "
            "and conrelid = 'worker.life_cycle'::regclass"
        ).fetchone()
    assert row is not None
    statuses = set(re.findall(r"'(\w+)'", row[0]))
    drawn = (ROOT / "docs" / "images" / "job-states.svg").read_text()
    assert set(re.findall(r"<text[^>]*>([a-z]+)</text>", drawn)) - {"publishes", "insert"} == statuses
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", pages()["docs/states.md"], re.MULTILINE)
    named = {status for cells in rows for cell in cells for status in re.findall(r"`(\w+)`", cell)}
    assert named == statuses

"""Names in the documentation exist: files, settings, commands, and objects of schema `worker`."""

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
"""Pages whose tables name objects of other systems, in every column but the last."""

NOT_SETTINGS = frozenset(
    {
        *("PROJECT_REF", "PUBLISHABLE_KEY", "HF_ENDPOINT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
        *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "LIKENESS_TRIPOSR_REFERENCE"),
    }
)
"""Names in capitals that are placeholders, or variables of libraries and tests."""

CONSTANTS_PAGE = "docs/timeouts.md"
"""A page that also lists constants of the code, whose names end in `_S`: `test_timeouts.py` compares them."""

GENERATED = {f"docs/reference/{path.name}" for path in (ROOT / "docs" / "reference").glob("*.md")}
"""Generated pages, which `test_reference.py` checks."""

PLACEHOLDER = "NAME"
"""A placeholder in the path of a file that the reader is to create."""

CATALOG = """
select 'worker.' || relname from pg_class where relnamespace = 'worker'::regnamespace
union select 'worker.' || proname from pg_proc where pronamespace = 'worker'::regnamespace
union select 'worker.' || relname || '.' || attname from pg_class join pg_attribute on attrelid = pg_class.oid
where relnamespace = 'worker'::regnamespace
"""


def spans(page: str, text: str) -> Iterator[str]:
    """Yield the code spans outside of blocks."""
    for line in prose(text).splitlines():
        is_row = page.startswith(FROM_ELSEWHERE) and line.startswith("|")
        yield from re.findall(r"`([^`]+)`", line.rstrip(" |").rpartition("|")[2] if is_row else line)


SPANS = [(page, span) for page, text in pages().items() if page not in GENERATED for span in spans(page, text)]


def test_named_files_exist() -> None:
    named = {(page, span) for page, span in SPANS if FILE.fullmatch(span)}
    assert len(named) > 20
    assert {(page, name) for page, name in named if not _exists(page, name)} == set()


def _exists(page: str, name: str) -> bool:
    return PLACEHOLDER in name or (ROOT / name).exists() or (ROOT / page).parent.joinpath(name).exists()


def test_the_tree_in_the_readme_names_existing_folders() -> None:
    (tree,) = re.findall(r"^```text\n(worker/.*?)^```", pages()["README.md"], re.MULTILINE | re.DOTALL)
    folders, top = [], ""
    for indent, name in re.findall(r"^( *)([\w-]+)/", tree, re.MULTILINE):
        top = top if indent else name
        folders.append(f"{top}/{name}" if indent else name)
    assert len(folders) > 10
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
    parts = {path.parent.name for path in ROOT.glob("worker/*/__init__.py")}
    assert parts == {folder.removeprefix("worker/") for folder in folders if folder.startswith("worker/")}


def test_named_settings_exist() -> None:
    named = {
        (page, match[1])
        for page, span in SPANS
        if page != CONSTANTS_PAGE or not span.endswith("_S")
        if (match := SETTING.fullmatch(span))
    }
    assert len(named) > 20
    assert {(page, name) for page, name in named if name not in VARIABLES | NOT_SETTINGS} == set()


def test_named_commands_and_targets_exist() -> None:
    named = {(page, span) for page, span in SPANS if COMMAND.match(span)}
    assert len(named) > 20
    found = {(page, wrong) for page, span in named for call in calls(_plain(span)) for wrong in problems(call)}
    assert {(page, wrong) for page, wrong in found if " needs " not in wrong} == set()


def _plain(command: str) -> str:
    """Remove brackets of optional words, and all but the first alternative."""
    return re.sub(r"\|\w+", "", re.sub(r"[\[\]]", "", command))


@pytest.fixture(scope="module")
def catalog(databases: Databases) -> set[str]:
    """Tables, views, functions and columns of schema worker, as worker.x and worker.x.y."""
    with psycopg.connect(databases.server.url(TEMPLATE)) as connection:
        return {name for (name,) in connection.execute(CATALOG)}


def test_names_in_worker_exist(catalog: set[str]) -> None:
    """Both the schema and the Python package have this name."""
    named = {(page, match[0]) for page, span in SPANS if (match := IN_WORKER.match(span))}
    assert len(named) > 20
    modules = {name for _, name in named if name.count(".") == 1 and importlib.util.find_spec(name)}
    unknown = {(page, name) for page, name in named if name not in catalog | modules}
    assert {(page, name) for page, name in unknown if not _is_member(name)} == set()


def _is_member(name: str) -> bool:
    """Return True if this is a member of a module, such as worker.settings.Settings."""
    module, _, member = name.rpartition(".")
    return module != "worker" and hasattr(importlib.import_module(module), member)

"""The house stays one where each kind of job, family and command has a room of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.kinds import CORE
from worker.ml.families.registry import FAMILIES

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for folder in ("worker", "sql") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sql")
]
MAX_LINES = 400
MAX_FILES = 12
LISTS_OF_WORDS = {"sql/screened_terms.sql"}

OF_PURPOSES = ("comments.sql", "consent.sql", "lora_imports.sql")
"""Here, training and generation are purposes of consent."""
CORE_FILES = [
    *(path for path in (ROOT / "sql").glob("*.sql") if path.name not in OF_PURPOSES),
    *(ROOT / "sql" / "housekeeping").glob("*.sql"),
    *(ROOT / "worker" / "pod").rglob("*.py"),
    *(ROOT / "worker" / "jobs").rglob("*.py"),
    ROOT / "worker" / "queue.py",
]
"""What does not know which kinds there are."""


NAMES_FAMILIES = ("worker/ml/families/", "worker/demo/", "sql/migrations/")
"""What may: the families themselves, the demo's own base, and the rows of base models that a migration adds."""


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_core_names_no_kind(path: Path) -> None:
    kinds = "|".join(kind.name for kind in CORE)
    assert re.findall(rf"""['"](?:{kinds})['"/:]""", path.read_text()) == []


def spelled(words: list[str]) -> str:
    """Return a pattern for a name of these words, also as people write it: "SD 1.5" for sd15."""
    return "[ ._-]?".join(words)


def test_nothing_outside_its_room_names_a_family() -> None:
    """Docstrings and comments too. Files of data are neither Python nor SQL."""
    slugs = [spelled(re.findall(r"[a-z]+|\d", slug)) for slug in FAMILIES]
    classes = [spelled(re.findall(r"[A-Z][a-z]*", type(family).__name__)) for family in FAMILIES.values()]
    named = re.compile("|".join({*slugs, *classes}), re.IGNORECASE)
    sentences = ("FLUX.1 and SD 1.5", "Stable Diffusion", "FluxTransformer2DModel", "networks.lora_flux")
    assert all(named.search(sentence) for sentence in sentences)
    paths = {path.relative_to(ROOT).as_posix(): path for path in SOURCES}
    outside = {name: path for name, path in paths.items() if not name.startswith(NAMES_FAMILIES)}
    found = {name: named.findall(path.read_text()) for name, path in outside.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_no_source_file_is_longer_than_a_reader_holds() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {
        name: lines[name] for name in LISTS_OF_WORDS
    }


def test_a_folder_of_more_than_a_dozen_files_says_why() -> None:
    folders = {path.parent for path in SOURCES if path.suffix == ".py"}
    large = [folder for folder in folders if len([*folder.glob("*.py")]) - 1 > MAX_FILES]
    silent = [folder for folder in large if "dozen files" not in (folder / "__init__.py").read_text()]
    assert silent == []

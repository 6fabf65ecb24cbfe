"""The page of timeouts and intervals lists those of the code, with their values."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.docs.blocks import ROOT, pages

PAGE = pages()["docs/timeouts.md"]
DATABASE, POD = re.split(r"^## The pod$", PAGE, flags=re.MULTILINE)


def test_the_timings_of_the_database_are_listed() -> None:
    timings = re.findall(r"when '(\w+)' then return interval '([^']+)'", (ROOT / "sql" / "timings.sql").read_text())
    assert len(timings) > 10
    assert re.findall(r"^\| `(\w+)` \| ([^|]+?) \| [^|`]", DATABASE, re.MULTILINE) == timings


def test_every_lock_timeout_is_listed() -> None:
    listed = set(re.findall(r"^\| `lock_timeout` \| (\w+) \| `([^`]+)` \|", DATABASE, re.MULTILINE))
    set_in_sql = {
        (value, path.relative_to(ROOT).as_posix())
        for path in (ROOT / "sql").rglob("*.sql")
        for value in re.findall(r"\block_timeout = '(\w+)'", path.read_text())
    }
    assert listed == set_in_sql


def test_the_limit_of_each_kind_is_listed() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \| ([^|]+?) \| `(sql/kinds/[^`]+)` \|", DATABASE, re.MULTILINE))
    registered = {
        (kind, value, path.relative_to(ROOT).as_posix())
        for path in (ROOT / "sql" / "kinds").glob("*.sql")
        for kind, value in re.findall(r"register_job_table\('(\w+)',.*interval '([^']+)'\)", path.read_text())
    }
    assert listed == registered


def test_every_constant_in_seconds_is_listed() -> None:
    listed = set(re.findall(r"^\| `(\w+_S)` \| ([^|]+?) \| `([^`]+)` \|", POD, re.MULTILINE))
    defined = {
        (name, value, path.relative_to(ROOT).as_posix())
        for path in (ROOT / "worker").rglob("*.py")
        if "demo" not in path.parts
        for name, value in _constants_in_seconds(path)
    }
    assert len(defined) > 20
    assert listed == defined, "list NAME, value and file in docs/timeouts.md"


def _constants_in_seconds(path: Path) -> list[tuple[str, str]]:
    """Return the constants of a module whose names end in `_S`, with their values as the page writes them."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ):
                if name.endswith("_S") and not name.endswith("_PER_S") and value is not None:
                    found.append((name, _in_seconds(ast.literal_eval(value))))
    return found


def _in_seconds(value: float | tuple[float, ...]) -> str:
    """Format seconds as the page does: 8.0 is "8 s", (0.0, 0.5) is "0, 0.5 s"."""
    return ", ".join(f"{one:g}" for one in (value if isinstance(value, tuple) else (value,))) + " s"

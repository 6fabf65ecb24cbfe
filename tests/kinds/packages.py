"""Packages that bring kinds of job: installed beside the worker, or written down as an installer leaves them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import GUARD

ECHO = Path(__file__).parent / "echo"


def install_echo(folder: Path) -> Path:
    """Build and install `tests/kinds/echo` into `folder`, as pip does it; returns the folder."""
    command = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", folder, ECHO]
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=folder.parent)
    return folder


def copy_echo(folder: Path) -> Path:
    """Put `tests/kinds/echo` into `folder` with the metadata that pip would write, in no time; returns the folder."""
    project = tomllib.loads((ECHO / "pyproject.toml").read_text())["project"]
    shutil.copytree(ECHO / "likeness_echo", folder / "likeness_echo")
    _write_metadata(folder, project["name"], project["entry-points"]["likeness.kinds"])
    return folder


def write_package(
    folder: Path, name: str, sql: str, entry_points: dict[str, str] | None = None, code: str = ""
) -> Path:
    """A package as an installer leaves it: a module with SQL, metadata with entry points. Returns the folder."""
    module = name.replace("-", "_")
    (folder / module / "sql").mkdir(parents=True)
    (folder / module / "__init__.py").touch()
    (folder / module / "kind.py").write_text(code)
    (folder / module / "sql" / "kind.sql").write_text(sql)
    _write_metadata(folder, name, entry_points or {module: f"{module}.kind:KIND"})
    return folder


def _write_metadata(folder: Path, name: str, entry_points: dict[str, str]) -> None:
    metadata = folder / f"{name.replace('-', '_')}-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    lines = [f"{point} = {value}" for point, value in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[likeness.kinds]", *lines]) + "\n")


def python_path(*folders: Path) -> str:
    """PYTHONPATH for a process that finds these packages, with the tests' network guard."""
    return os.pathsep.join(map(str, [GUARD, *folders]))


def migrate(url: str, *words: str, packages: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`worker migrate` as the database's owner."""
    return subprocess.run(
        [sys.executable, "-m", "worker", "migrate", *words],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": python_path(*packages)},
        capture_output=True,
        text=True,
    )

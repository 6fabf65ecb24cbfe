"""Running the same measurement with the code of this tree and of the release before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
RELEASE_BEFORE = "8b18778"


@contextmanager
def checked_out(commit: str = RELEASE_BEFORE) -> Iterator[Path]:
    """Yield a folder with the files of this commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / commit
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def command(tree: Path, module: str, *arguments: str | Path) -> tuple[list[str], Path, dict[str, str]]:
    """Return command, working directory and environment that run a module of `bench` with the code of a tree.

    One thread, so that the other processes of the machine matter less.
    """
    environment = os.environ | {"PYTHONPATH": f"{tree}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return [sys.executable, "-m", module, *map(str, arguments)], tree, environment


def output(tree: Path, module: str, *arguments: str | Path, **variables: str) -> str:
    """Run a module of `bench` to its end with the code of a tree, and return what it prints."""
    words, folder, environment = command(tree, module, *arguments)
    done = subprocess.run(words, cwd=folder, env=environment | variables, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout

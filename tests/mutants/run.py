"""Mutation tests: each patch here removes one protection, and the tests that it names must then fail.

    python tests/mutants/run.py [NAME …]        all patches, or those whose file name contains a NAME

The working tree is copied, so nothing here is changed, and uncommitted changes count. First the named tests must pass
in a copy without a patch. Exit code 1 when a mutant survives, 2 when a patch does not apply or a test cannot run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
DEADLINE_S = 300
PRISTINE_DEADLINE_S = 1200
"""For all named tests at once, without a patch."""
AT_ONCE = os.cpu_count() or 1
NOTICED_LENGTH = 60


@dataclass(frozen=True)
class Mutant:
    """A patch, the protection that it removes, and the tests that must then fail."""

    path: Path
    removes: str
    must_fail: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Mutant:
        header = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
        fields = {name: value for name, _, value in (line.partition(": ") for line in header)}
        tests = tuple(test.strip() for test in fields["must fail"].split(",") if test.strip())
        return cls(path, fields["removes"], tests)


@dataclass(frozen=True)
class Verdict:
    """`survived` names tests that still passed, `noticed` quotes one that failed; `broken` is why none could run."""

    mutant: Mutant
    survived: tuple[str, ...] = ()
    broken: str | None = None
    noticed: str = ""


def copy_working_tree(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():  # deleted files are listed until the deletion is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass(frozen=True)
class Outcome:
    """How one test ended: passed, failed, skipped or error."""

    word: str
    message: str


def run_tests(tree: Path, tests: tuple[str, ...], deadline_s: float = DEADLINE_S) -> dict[str, Outcome]:
    """Run tests; returns the outcome of each. Raises RuntimeError if pytest did not finish."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        return _run_tests(tree, tests, deadline_s, Path(report.name))


def _run_tests(tree: Path, tests: tuple[str, ...], deadline_s: float, report: Path) -> dict[str, Outcome]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", *tests],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=deadline_s,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}")
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        marks = [child for child in case if child.tag in _WORDS]
        outcome = Outcome(_WORDS[marks[0].tag], marks[0].get("message", "")) if marks else Outcome("passed", "")
        outcomes[f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"] = outcome
    return outcomes


_WORDS = {"error": "error", "failure": "failed", "skipped": "skipped"}


def words_of(test: str, outcomes: dict[str, Outcome]) -> set[str]:
    """Return the outcomes of a test; a name without brackets means all its parameters."""
    return {outcome.word for name, outcome in outcomes.items() if name == test or re.sub(r"\[.*", "", name) == test}


def parts_of(tests: list[str]) -> list[tuple[str, ...]]:
    """Return tests in as many parts as run at once; those of a file are in one part."""
    files = sorted({test.partition("::")[0] for test in tests})
    parts = [files[start::AT_ONCE] for start in range(AT_ONCE)]
    return [tuple(test for test in tests if test.partition("::")[0] in part) for part in parts if part]


def judge(mutant: Mutant, pristine: Path) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(pristine, tree)
        patched = subprocess.run(
            ["git", "apply", "-C1", str(mutant.path)], cwd=tree, capture_output=True, text=True, env=_no_repository()
        )
        if patched.returncode != 0:
            return Verdict(mutant, broken=f"does not apply: {patched.stderr.strip()}")
        try:
            outcomes = run_tests(tree, mutant.must_fail)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return Verdict(mutant, broken=str(error))
    found = {test: words_of(test, outcomes) for test in mutant.must_fail}
    # An error is a test whose setup failed, which proves nothing.
    unclear = [test for test, seen in found.items() if not seen or "error" in seen]
    if unclear:
        return Verdict(mutant, broken=f"could not run: {', '.join(unclear)}")
    noticed = next((outcome.message for outcome in outcomes.values() if outcome.word == "failed"), "")
    survived = tuple(test for test, seen in found.items() if "failed" not in seen)
    return Verdict(mutant, survived, noticed=" ".join(noticed.split())[:NOTICED_LENGTH])


def _no_repository() -> dict[str, str]:
    """Keep Git from looking for a repository above the copy."""
    return {**os.environ, "GIT_CEILING_DIRECTORIES": tempfile.gettempdir()}


def main(names: list[str]) -> int:
    console = Console(width=max(Console().width, 120))
    mutants = [Mutant.read(path) for path in sorted(FOLDER.glob("*.patch"))]
    mutants = [mutant for mutant in mutants if not names or any(name in mutant.path.name for name in names)]
    if not mutants:
        console.print(f"no mutant's name contains {' or '.join(names)}", markup=False)
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        pristine = Path(folder) / "tree"
        copy_working_tree(pristine)
        every_test = sorted({test for mutant in mutants for test in mutant.must_fail})
        with ThreadPoolExecutor(AT_ONCE) as executor:
            outcomes: dict[str, Outcome] = {}
            for part in executor.map(
                lambda tests: run_tests(pristine, tests, PRISTINE_DEADLINE_S), parts_of(every_test)
            ):
                outcomes |= part
            for test in every_test:
                if words_of(test, outcomes) != {"passed"}:
                    console.print(f"without any patch, {test}: {words_of(test, outcomes) or 'not found'}", markup=False)
                    return 2
            verdicts = list(executor.map(lambda mutant: judge(mutant, pristine), mutants))
    table = Table("mutant", "removes", "outcome", "noticed by")
    for verdict in verdicts:
        outcome = verdict.broken or (f"SURVIVED {', '.join(verdict.survived)}" if verdict.survived else "killed")
        row = (verdict.mutant.path.stem, verdict.mutant.removes, outcome, verdict.noticed)
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    killed = sum(not verdict.broken and not verdict.survived for verdict in verdicts)
    console.print(f"{killed} of {len(verdicts)} killed")
    return 2 if any(verdict.broken for verdict in verdicts) else int(killed < len(verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

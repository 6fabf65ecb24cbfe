"""The SQL files of this release and of the packages installed beside it, in the order in which they run.

Numbered files hold state and run once each, in order, with a checksum. Repeatable files hold none; when anything
changed they all run again, in order, because the rights at the end cover what the others create.

A package adds kinds of job: it has an entry point in the group `likeness.kinds`, and a folder `sql/` in its top
module, with `migrations/NNNN_*.sql` and repeatable `*.sql`. Its modules are not imported for this.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

ENTRY_POINTS = "likeness.kinds"

REPEATABLE = (
    *(
        "timings",
        "installation",
        "retry_policy",
        "consent",
        "hooks",
        "guardrails",
        "screened_terms",
        "requests",
        "accounts",
        "column_defaults",
        "quota",
        "kinds",
        "job_triggers",
    ),
    *(
        "queue",
        "functions",
        "earlier_results",
        "failures_and_cancel",
        "memory",
        "guides",
        "housekeeping/*",
        "pods",
        "release_0_1",
        "policies",
    ),
    *("packages", "catalog", "triggers", "kinds/*", "lora_imports"),
)
"""In the order in which they depend on each other; `*` is every file of a folder."""
LAST = ("views", "rights", "comments", "rls", "function_settings", "recorded")
"""After the kinds that packages add, because views, rights, settings, policies and the record cover them."""


class MigrationError(Exception):
    """The migration failed and changed nothing; the message says why and what to do."""


@dataclass(frozen=True)
class SqlFile:
    """One SQL file. `number` is None for a repeatable one, `package` for one of this project's own."""

    name: str
    text: str
    number: int | None
    package: str | None = None

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def key(self) -> tuple[str | None, str]:
        """Return its key in the ledgers: the package and the file's name."""
        return self.package, self.name

    def __str__(self) -> str:
        return f"{self.package}: {self.name}.sql" if self.package else f"{self.name}.sql"


@dataclass(frozen=True)
class Package:
    """An installed distribution that adds kinds of job, and the folder of its SQL."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Release:
    """Every SQL file of an installation of this project.

    They run in this order: our numbered files, our repeatable ones, the numbered and the repeatable files of each
    package (applied by functions that our own files create), then those in LAST.
    """

    folder: Path
    packages: tuple[Package, ...] = ()

    @property
    def files(self) -> list[SqlFile]:
        """Return all files, in their order."""
        return [
            *numbered_files(self.folder),
            *_files(self.folder, REPEATABLE),
            *(file for package in self.packages for file in numbered_files(package.folder, package.name)),
            *(file for package in self.packages for file in _files(package.folder, ("*",), package.name)),
            *_files(self.folder, LAST),
        ]

    @property
    def numbered(self) -> list[SqlFile]:
        """Return the files that hold state."""
        return [file for file in self.files if file.number is not None]

    @property
    def repeatable(self) -> list[SqlFile]:
        """Return the files that hold no state."""
        return [file for file in self.files if file.number is None]


def this_release(
    folder: Path | None = None, packages: Sequence[Package] | None = None, without: Collection[str] = ()
) -> Release:
    """Return the files of `folder` (default: `sql/`) and of `packages` (default: the installed ones) but `without`."""
    found = installed_packages() if packages is None else packages
    return Release(folder or sql_folder(), tuple(package for package in found if package.name not in without))


def sql_folder() -> Path:
    """Return the path of `sql/`: inside the installed package, else beside it in a checkout."""
    installed = Path(__file__).parents[2] / "_sql"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "sql"


def numbered_files(folder: Path | None = None, package: str | None = None) -> list[SqlFile]:
    """Return the numbered migrations of a folder, in order."""
    paths = sorted(((folder or sql_folder()) / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [SqlFile(path.stem, _read(path, package), int(path.stem[:4]), package) for path in paths]


def repeatable_files(folder: Path | None = None) -> list[SqlFile]:
    """Return the project's own repeatable files, in the order in which they depend on each other."""
    return Release(folder or sql_folder()).repeatable


def _files(folder: Path, patterns: Iterable[str], package: str | None = None) -> list[SqlFile]:
    paths = [path for pattern in patterns for path in sorted(folder.glob(f"{pattern}.sql"))]
    return [
        SqlFile(path.relative_to(folder).with_suffix("").as_posix(), _read(path, package), None, package)
        for path in paths
    ]


def _read(path: Path, package: str | None) -> str:
    """Raises MigrationError when the file is not a text that PostgreSQL accepts."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        text, reason = "", f"byte {error.start} is not UTF-8"
    else:
        reason = "it contains a NUL byte" if "\0" in text else ""
    if reason:
        whose = f"package {package}, " if package else ""
        raise MigrationError(f"{whose}{path.name} cannot be read: {reason}. Save it as UTF-8; nothing was changed.")
    return text


def installed_packages() -> list[Package]:
    """Return the installed distributions with an entry point for kinds and SQL in their top module, by name."""
    packages = {
        package.name: package
        for point in entry_points(group=ENTRY_POINTS)
        if (package := _package_of(point)) is not None
    }
    return [packages[name] for name in sorted(packages)]


def normal_name(package: str) -> str:
    """Return a distribution's name as indexes and ledgers spell it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _package_of(point: EntryPoint) -> Package | None:
    if not point.pattern.match(point.value):
        return None  # names no module; the pods say so
    spec = find_spec(point.module.partition(".")[0])
    if point.dist is None or spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "sql"
    return Package(normal_name(point.dist.name), folder) if folder.is_dir() else None

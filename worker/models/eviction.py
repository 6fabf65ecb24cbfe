"""Room for a model that comes: what was used longest ago goes, and never what somebody needs.

What may go: leftovers of fetches whose process died, and models that nobody uses and that the bucket gives back.
What never goes: a folder, or a link to one, that somebody put there by hand, a model that any process of this disk
uses, and one that is only here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.models.locks import ModelLeases, exclusive, fetch_lock_file, last_used, locked
from worker.models.manifest import read_manifest
from worker.models.names import ARRIVING, arriving_path

COMING = ".coming"
"""In a folder that arrives: how many bytes it will have, so that others leave room for them."""
EVICTING = ".evicting-"


class InsufficientDiskSpace(Exception):
    """A model does not fit; the message says by how much, and what is in the way."""


@dataclass(frozen=True)
class Room:
    """The disk under `models_dir`, of which models may take `max_gb`."""

    models_dir: Path
    max_gb: float | None
    uses: ModelLeases

    def reserve(self, slug: str, size_bytes: int, in_bucket: Collection[str]) -> None:
        """Make room for a model of that size, whose folder for arriving exists and whose lock the caller holds.

        Models named in `in_bucket` may be evicted. Raises InsufficientDiskSpace, and then nothing was.
        """
        with self._deciding():
            (arriving_path(self.models_dir, slug) / COMING).write_text(str(size_bytes))
            lacking = self._lacking()
            if lacking <= 0:
                return
            try:
                self._evict(lacking, slug, in_bucket)
            except InsufficientDiskSpace as error:
                (arriving_path(self.models_dir, slug) / COMING).unlink()
                raise InsufficientDiskSpace(f"needs {size_bytes / 1e9:.1f} GB: {error}") from None

    def _evict(self, lacking: float, slug: str, in_bucket: Collection[str]) -> None:
        with ExitStack() as held:
            going: list[Path] = []
            staying: list[str] = []
            for folder in self._by_last_use(slug):
                why = self._why_it_stays(folder, in_bucket, held)
                size = size_of(folder)
                if why is None:
                    lacking -= size
                    going.append(folder)
                else:
                    staying.append(f"{folder.name} {size / 1e9:.1f} GB ({why})")
                if lacking <= 0:
                    break
            else:
                stays = f"; what stays: {', '.join(staying)}" if staying else ""
                raise InsufficientDiskSpace(f"{lacking / 1e9:.1f} GB too much for {self._limit()}{stays}")
            for folder in going:
                # Under its name it would look damaged while it goes.
                gone = self.models_dir / f"{EVICTING}{folder.name.removeprefix(EVICTING)}"
                with suppress(FileNotFoundError):
                    folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def _why_it_stays(self, folder: Path, in_bucket: Collection[str], held: ExitStack) -> str | None:
        """None for a folder that may go; then its locks are held."""
        if _is_leftover(folder):
            slug = folder.name.removeprefix(EVICTING).removeprefix(ARRIVING)
            alone = held.enter_context(exclusive(fetch_lock_file(self.models_dir, slug)))
            return None if alone else "on its way"
        if folder.is_symlink() or read_manifest(folder) is None:
            return "put there by hand"
        if folder.name not in in_bucket:
            return "not in the bucket"
        return None if held.enter_context(self.uses.evicting(folder.name)) else "in use"

    def _by_last_use(self, coming: str) -> list[Path]:
        """Leftovers first; without the model that is to come."""
        mine = {self.models_dir / coming, arriving_path(self.models_dir, coming)}
        folders = [path for path in self.models_dir.iterdir() if path.is_dir() and path not in mine]
        models = [path for path in folders if _is_leftover(path) or not path.name.startswith(".")]
        return sorted(models, key=lambda path: (not _is_leftover(path), last_used(self.models_dir, path.name)))

    def _lacking(self) -> float:
        """Bytes that are missing for everything that is on its way."""
        promised = sum(self._promised(folder) for folder in self.models_dir.glob(f"{ARRIVING}*"))
        lacking = float(promised - shutil.disk_usage(self.models_dir).free)
        if self.max_gb is not None:
            lacking = max(lacking, size_of(self.models_dir) + promised - self.max_gb * 1e9)
        return lacking

    def _promised(self, arriving: Path) -> int:
        """What is still to come into a folder; nothing when the process that filled it is dead."""
        slug = arriving.name.removeprefix(ARRIVING)
        with exclusive(fetch_lock_file(self.models_dir, slug)) as abandoned:
            if abandoned:
                return 0
        with suppress(FileNotFoundError, ValueError):
            return max(0, int((arriving / COMING).read_text()) - size_of(arriving))
        return 0

    def _limit(self) -> str:
        if self.max_gb is not None and size_of(self.models_dir) + shutil.disk_usage(self.models_dir).free > (
            self.max_gb * 1e9
        ):
            return f"MODELS_MAX_GB={self.max_gb:g}"
        return f"the disk, which has {shutil.disk_usage(self.models_dir).free / 1e9:.1f} GB free"

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """One process at a time, for as long as deleting takes; else two would count on the same room."""
        with locked(self.models_dir / ".locks" / ".room"):
            yield


def size_of(folder: Path) -> int:
    """Bytes under a folder, in which other processes may be at work. What a link leads to lies elsewhere."""
    total = 0
    for parent, _, names in os.walk(folder):  # goes on where rglob raises: a folder below gets its name, or is evicted
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total


def _is_leftover(folder: Path) -> bool:
    return folder.name.startswith((ARRIVING, EVICTING))

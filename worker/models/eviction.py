"""Make space for a model by evicting the least recently used ones.

Evictable are leftovers of downloads whose process died, and unused models that are in the bucket too. Never evicted are
folders, or links to folders, that were added by hand, models that any process with this disk uses, and models that are
stored only here.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.models.locks import ModelLeases, fetch_lock_path, file_lock, last_used, try_file_lock
from worker.models.manifest import read_manifest
from worker.models.names import PARTIAL_PREFIX, partial_path
from worker.models.partial_folder import EXPECTED_SIZE_FILE
from worker.storage.folder_size import folder_size

EVICTING_PREFIX = ".evicting-"


class InsufficientDiskSpace(Exception):
    """A model does not fit. The message says by how much, and why other models could not be evicted."""


@dataclass(frozen=True)
class DiskSpace:
    """The disk of `models_dir`, of which models may use `max_gb`."""

    models_dir: Path
    max_gb: float | None
    leases: ModelLeases

    def reserve(self, slug: str, size_bytes: int, in_bucket: Collection[str]) -> None:
        """Reserve space for a model whose partial folder exists and whose fetch lock the caller holds.

        Evicts only models that are named in `in_bucket`. Raises InsufficientDiskSpace, and then evicts none.
        """
        expected_size = partial_path(self.models_dir, slug) / EXPECTED_SIZE_FILE
        # One process at a time, or two would count on the same space.
        with file_lock(self.models_dir / ".locks" / ".room"):
            expected_size.write_text(str(size_bytes))
            shortfall = self._shortfall_bytes()
            if shortfall <= 0:
                return
            try:
                self._evict(shortfall, slug, in_bucket)
            except InsufficientDiskSpace as error:
                expected_size.unlink()
                raise InsufficientDiskSpace(f"needs {size_bytes / 1e9:.1f} GB, which {error}") from None

    def _evict(self, shortfall: float, incoming: str, in_bucket: Collection[str]) -> None:
        with ExitStack() as locks:
            for folder in self._choose_victims(shortfall, incoming, in_bucket, locks):
                # Renamed first: under its own name it would look damaged while it is being deleted.
                evicting = self.models_dir / f"{EVICTING_PREFIX}{folder.name.removeprefix(EVICTING_PREFIX)}"
                with suppress(FileNotFoundError):
                    folder.rename(evicting)
                shutil.rmtree(evicting, ignore_errors=True)

    def _choose_victims(
        self, shortfall: float, incoming: str, in_bucket: Collection[str], locks: ExitStack
    ) -> list[Path]:
        """Return folders that together free `shortfall` bytes. Raises InsufficientDiskSpace."""
        victims: list[Path] = []
        kept: list[str] = []
        for folder in self._by_last_use(incoming):
            reason = self._reason_to_keep(folder, in_bucket, locks)
            size = folder_size(folder)
            if reason is None:
                shortfall -= size
                victims.append(folder)
            else:
                kept.append(f"{folder.name} {size / 1e9:.1f} GB ({reason})")
            if shortfall <= 0:
                return victims
        not_evicted = f"; not evicted: {', '.join(kept)}" if kept else ""
        raise InsufficientDiskSpace(f"exceeds {self._limit()} by {shortfall / 1e9:.1f} GB{not_evicted}")

    def _reason_to_keep(self, folder: Path, in_bucket: Collection[str], locks: ExitStack) -> str | None:
        """Return None for a folder that may be deleted; `locks` then contains its lock."""
        if _is_leftover(folder):
            slug = folder.name.removeprefix(EVICTING_PREFIX).removeprefix(PARTIAL_PREFIX)
            acquired = locks.enter_context(try_file_lock(fetch_lock_path(self.models_dir, slug)))
            return None if acquired else "being downloaded"
        if folder.is_symlink() or read_manifest(folder) is None:
            return "added by hand"
        if folder.name not in in_bucket:
            return "not in the bucket"
        return None if locks.enter_context(self.leases.try_exclusive(folder.name)) else "in use"

    def _by_last_use(self, incoming: str) -> list[Path]:
        """Return all folders but those of the incoming model: leftovers, then the least recently used models first."""
        own = {self.models_dir / incoming, partial_path(self.models_dir, incoming)}
        folders = [path for path in self.models_dir.iterdir() if path.is_dir() and path not in own]
        candidates = [path for path in folders if _is_leftover(path) or not path.name.startswith(".")]
        return sorted(candidates, key=lambda path: (not _is_leftover(path), last_used(self.models_dir, path.name)))

    def _shortfall_bytes(self) -> float:
        """Return how many bytes more are needed to finish all running downloads."""
        outstanding = sum(self._outstanding_bytes(folder) for folder in self.models_dir.glob(f"{PARTIAL_PREFIX}*"))
        shortfall = float(outstanding - shutil.disk_usage(self.models_dir).free)
        if self.max_gb is not None:
            shortfall = max(shortfall, folder_size(self.models_dir) + outstanding - self.max_gb * 1e9)
        return shortfall

    def _outstanding_bytes(self, partial: Path) -> int:
        """Return how many bytes are still to be downloaded into a folder, 0 if its process died."""
        slug = partial.name.removeprefix(PARTIAL_PREFIX)
        with try_file_lock(fetch_lock_path(self.models_dir, slug)) as is_abandoned:
            if is_abandoned:
                return 0
        with suppress(FileNotFoundError, ValueError):
            return max(0, int((partial / EXPECTED_SIZE_FILE).read_text()) - folder_size(partial))
        return 0

    def _limit(self) -> str:
        free = shutil.disk_usage(self.models_dir).free
        if self.max_gb is not None and folder_size(self.models_dir) + free > self.max_gb * 1e9:
            return f"MODELS_MAX_GB={self.max_gb:g}"
        return f"the {free / 1e9:.1f} GB of free disk space"


def _is_leftover(folder: Path) -> bool:
    return folder.name.startswith((PARTIAL_PREFIX, EVICTING_PREFIX))

"""Personal files on a pod's disk: a folder for each attempt, and a cache for each person and purpose.

All of them are in one folder per process, which is deleted when the process ends. The folder of a killed process is
deleted when the next one starts: only a running process holds its folder's file lock. A person's cache is deleted when
they no longer consent to its purpose.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import UUID

NOBODY = "_"


class Workspace:
    """The folder of one process, inside `root`, which the processes of this machine share."""

    def __init__(self, root: Path, pod_id: UUID) -> None:
        self._root = root
        self._folder = root / str(pod_id)
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_path(self._folder).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # before the folder exists, so that it is never seen unlocked
        self._folder.mkdir(mode=0o700)
        for folder in self._root.iterdir():
            if folder.is_dir() and folder != self._folder and _is_abandoned(folder):
                _remove(folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _remove(self._folder)
        if self._lock is not None:
            self._lock.close()

    def touch(self) -> None:
        """Record that this process's event loop runs; see `last_touches`."""
        if self._lock is not None:
            os.utime(self._lock.fileno())

    def attempt(self, name: str) -> Path:
        """Create an empty folder for one attempt; its name must contain kind, job and attempt."""
        folder = self._folder / "attempts" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def end_attempt(self, folder: Path) -> None:
        """Delete an attempt's folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def cache(self, subject_id: UUID | None, purpose: str | None) -> Path:
        """Return the folder for files of a person that are used for a purpose, whether it exists or not."""
        return self._folder / "subjects" / str(subject_id or NOBODY) / (purpose or NOBODY)

    def held(self) -> list[tuple[UUID, str]]:
        """Return the people of whom files are cached, and what for."""
        folders = [folder for folder in (self._folder / "subjects").glob("*/*") if folder.parent.name != NOBODY]
        return [
            (UUID(folder.parent.name), folder.name)
            for folder in folders
            if any(path.is_file() for path in folder.rglob("*"))
        ]

    def forget(self, subject_id: UUID, purpose: str) -> None:
        """Delete what is cached of a person for a purpose."""
        shutil.rmtree(self.cache(subject_id, purpose), ignore_errors=True)

    def trim(self, keep: int) -> None:
        """Delete the least recently used LoRAs beyond `keep` files."""
        files = sorted((self._folder / "subjects").glob("*/*/*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in files[:-keep]:
            path.unlink(missing_ok=True)


def last_touches(root: Path) -> list[float]:
    """Return when each running process of this machine last touched its file, in seconds since the epoch."""
    touches = []
    for folder in root.glob("*/"):
        with suppress(FileNotFoundError):  # it is just ending
            if not _is_abandoned(folder):
                touches.append(_lock_path(folder).stat().st_mtime)
    return touches


def _lock_path(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock_path(folder).unlink(missing_ok=True)


def _is_abandoned(folder: Path) -> bool:
    """Return True if no running process holds the folder's lock."""
    try:
        descriptor = os.open(_lock_path(folder), os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

"""File locks between processes that share MODELS_DIR. The kernel releases them when a process ends.

MODELS_DIR/.in-use/{slug}   shared while a process uses the model, exclusive while it is evicted; its modification
                            time is when the model was last used
MODELS_DIR/.locks/{slug}    exclusive while a process fetches, pulls or imports the model
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

LOCK_POLL_S = 0.2
MAX_IDLE_LEASES = 4
"""Unused models that stay locked, because the GPU process keeps two base models and both upscalers loaded."""
_READ_ONLY_ERRORS = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class ModelLeases:
    """The shared locks of this process: on the models that it uses, and on those that it used last."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._users: Counter[str] = Counter()
        self._locks: OrderedDict[str, int] = OrderedDict()
        """File descriptor by slug, the least recently used first."""
        self._mutex = threading.Lock()
        """Users change in the event loop; evictions run in threads."""

    async def acquire(self, slug: str) -> None:
        """Add a user of the model: until it is released, no process evicts it. Waits for a running eviction."""
        with self._mutex:
            self._users[slug] += 1
        try:
            await self._lock(slug)
        except BaseException:
            self.release(slug)
            raise

    def release(self, slug: str) -> None:
        """Remove a user of the model. Its lock stays while the model is likely to be loaded."""
        with self._mutex:
            self._users[slug] -= 1
            idle = [locked for locked in self._locks if self._users[locked] == 0]
            for least_recent in idle[:-MAX_IDLE_LEASES]:
                self._unlock(least_recent)

    @contextmanager
    def try_exclusive(self, slug: str) -> Iterator[bool]:
        """Yield True if no process uses the model; then none can begin to use it inside the block."""
        with self._mutex:
            is_used_here = self._users[slug] > 0
            was_locked = not is_used_here and self._unlock(slug)
        if is_used_here:
            yield False
            return
        try:
            with try_file_lock(_lease_path(self._models_dir, slug)) as acquired:
                yield acquired
        finally:
            if was_locked:
                self._relock(slug)

    async def _lock(self, slug: str) -> None:
        if slug not in self._locks:
            lock = _open_unless_read_only(_lease_path(self._models_dir, slug))
            if lock is None:
                return  # on a read-only volume there is no way to tell other processes
            try:
                await _wait_for(lock, fcntl.LOCK_SH)
            except BaseException:
                os.close(lock)
                raise
            with self._mutex:
                self._unlock(slug)  # another task may have locked it meanwhile, and one lock is enough
                self._locks[slug] = lock
        self._locks.move_to_end(slug)
        now_ns = time.time_ns()  # finer than the clock that the kernel uses for file times
        os.utime(self._locks[slug], ns=(now_ns, now_ns))

    def _unlock(self, slug: str) -> bool:
        """Release the lock of a model. Return True if there was one."""
        lock = self._locks.pop(slug, None)
        if lock is not None:
            os.close(lock)
        return lock is not None

    def _relock(self, slug: str) -> None:
        """Lock a loaded model again that was not evicted after all."""
        lock = _open_unless_read_only(_lease_path(self._models_dir, slug))
        if lock is None:
            return
        with self._mutex:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                self._unlock(slug)
                self._locks[slug] = lock
                self._locks.move_to_end(slug, last=False)


def last_used(models_dir: Path, slug: str) -> float:
    """Return when a model was last used, in seconds since the epoch, 0 if never."""
    with suppress(FileNotFoundError):
        return _lease_path(models_dir, slug).stat().st_mtime
    return 0.0


@asynccontextmanager
async def fetch_lock(models_dir: Path, slug: str) -> AsyncIterator[None]:
    """Wait for the fetch lock of a model, which excludes other processes and other tasks of this one."""
    lock = _open(fetch_lock_path(models_dir, slug))
    try:
        await _wait_for(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def fetch_lock_path(models_dir: Path, slug: str) -> Path:
    """Return the file that is locked while a process downloads or imports a model."""
    return models_dir / ".locks" / slug


@contextmanager
def try_file_lock(path: Path) -> Iterator[bool]:
    """Yield True and lock a file exclusively for the block, or yield False if it is locked already."""
    lock = _open(path)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Lock a file exclusively for the block. Blocks the thread until then, so keep the block short."""
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lease_path(models_dir: Path, slug: str) -> Path:
    return models_dir / ".in-use" / slug


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _open_unless_read_only(path: Path) -> int | None:
    try:
        return _open(path)
    except OSError as error:
        if error.errno in _READ_ONLY_ERRORS:
            return None
        raise


async def _wait_for(lock: int, operation: int) -> None:
    """Poll for a lock, because a thread that blocks in flock cannot be cancelled."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, operation | fcntl.LOCK_NB)
            return
        await asyncio.sleep(LOCK_POLL_S)

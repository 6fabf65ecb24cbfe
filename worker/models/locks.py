"""Who uses a model and who brings it, told between processes that share a disk. A lock ends with its holder.

MODELS_DIR/.in-use/{slug}   shared while a process uses the model, exclusive while it is evicted; its time
                            stamp says when the model was last used
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
KEPT_LOADED = 4
"""Models nobody uses at the moment that stay locked: the GPU process keeps two bases and both upscalers loaded."""
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class ModelLeases:
    """The models that this process uses, and those it has used last."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._users: Counter[str] = Counter()
        self._locks: OrderedDict[str, int] = OrderedDict()
        self._changing = threading.Lock()
        """Users come and go in the event loop; evictions happen in threads."""

    async def begin(self, slug: str) -> None:
        """From now on no process evicts the model. Waits while one is about to."""
        with self._changing:
            self._users[slug] += 1
        try:
            await self._lock(slug)
        except BaseException:
            self.end(slug)
            raise

    def end(self, slug: str) -> None:
        """One user fewer. The lock stays while the model is likely to be loaded."""
        with self._changing:
            self._users[slug] -= 1
            idle = [held for held in self._locks if self._users[held] == 0]
            for held in idle[:-KEPT_LOADED]:
                self._let_go(held)

    @contextmanager
    def evicting(self, slug: str) -> Iterator[bool]:
        """Whether nobody, here or in another process, uses the model; then nobody begins to inside the block."""
        with self._changing:
            used_here = self._users[slug] > 0
            loaded = not used_here and self._let_go(slug)
        if used_here:
            yield False
            return
        try:
            with exclusive(_use_file(self._models_dir, slug)) as alone:
                yield alone
        finally:
            if loaded:
                self._take_back(slug)

    async def _lock(self, slug: str) -> None:
        if slug not in self._locks:
            lock = _open(_use_file(self._models_dir, slug))
            if lock is None:
                return  # a disk that we may only read: whoever shares it cannot know
            try:
                await _wait_for(lock, fcntl.LOCK_SH)
            except BaseException:
                os.close(lock)
                raise
            with self._changing:
                self._let_go(slug)  # another task may have been faster, and one lock is enough
                self._locks[slug] = lock
        self._locks.move_to_end(slug)
        now_ns = time.time_ns()  # a finer clock than the one the kernel stamps files with
        os.utime(self._locks[slug], ns=(now_ns, now_ns))

    def _let_go(self, slug: str) -> bool:
        """True if the model was locked."""
        lock = self._locks.pop(slug, None)
        if lock is not None:
            os.close(lock)
        return lock is not None

    def _take_back(self, slug: str) -> None:
        """A model that was not evicted after all is still loaded."""
        lock = _open(_use_file(self._models_dir, slug))
        if lock is None:
            return
        with self._changing:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                self._let_go(slug)
                self._locks[slug] = lock
                self._locks.move_to_end(slug, last=False)


def last_used(models_dir: Path, slug: str) -> float:
    """When a model was last used, in seconds since the epoch; 0 if never."""
    with suppress(FileNotFoundError):
        return _use_file(models_dir, slug).stat().st_mtime
    return 0.0


@asynccontextmanager
async def fetch_lock(models_dir: Path, slug: str) -> AsyncIterator[None]:
    """Only one process of this machine, and one task of it, brings a model at a time."""
    lock = os.open(_made(fetch_lock_file(models_dir, slug)), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        await _wait_for(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def fetch_lock_file(models_dir: Path, slug: str) -> Path:
    return models_dir / ".locks" / slug


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """The lock of a file for the time of the block, if it can be had at once."""
    lock = os.open(_made(path), os.O_RDWR | os.O_CREAT, 0o644)
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
def locked(path: Path) -> Iterator[None]:
    """The lock of a file for the time of the block. Waits for it, so it is for what takes a moment."""
    lock = os.open(_made(path), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _use_file(models_dir: Path, slug: str) -> Path:
    return models_dir / ".in-use" / slug


def _open(path: Path) -> int | None:
    try:
        return os.open(_made(path), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno in _READ_ONLY:
            return None
        raise


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


async def _wait_for(lock: int, kind: int) -> None:
    """Asked for again and again, because a thread that waits in flock cannot be cancelled."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        await asyncio.sleep(LOCK_POLL_S)

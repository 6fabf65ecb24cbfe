"""What is the same for all pictures of a request is computed for the first alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from worker.ml.protocol import GuideUse

Made = TypeVar("Made")


class OncePerUse(Generic[Made]):
    """Keeps what was made of the pictures of a guide's last use, until it is told to forget them."""

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[GuideUse], Made] | None = None

    def get(self, use: GuideUse, make: Callable[[], Made]) -> Made:
        """Return what was made for this use, which is made now unless it was the last one."""
        if self._last is None or self._last[0]() is not use:
            self._last = weakref.ref(use), make()
        return self._last[1]

    def forget(self) -> None:
        self._last = None

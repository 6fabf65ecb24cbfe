"""When the claim loop looks at the queue, for each slot.

Once when a job may have become claimable, and then a few times more, because a look may come too early: pgqueuer locks
the next job of every route that it is asked for and keeps one, so that for a moment other pods' claims hide jobs, and
an open transaction hides those that it has locked. After that a slot only polls.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Collection, Iterable
from typing import Literal

AGAIN_AFTER_S = (0.04, 0.3, 2.0)
"""The pauses before further looks."""
AGAIN_JITTER = (0.5, 1.5)
"""Shares of the pause: pods that hid jobs from each other do not meet again."""
POLL_EVERY_S = 30.0
"""In case a notification was lost, or a transaction that had locked a job was rolled back."""
POLL_WITHOUT_LISTEN_EVERY_S = 2.0
POLL_JITTER = (0.9, 1.0)
"""Shares of the interval."""
AFTER_FAILURE_S = 1.0

Outcome = Literal["claimed", "in vain", "failed"]


class Looks:
    """The looks of one pod. Times are those of `time.monotonic`."""

    def __init__(self, slots: Iterable[str]) -> None:
        self._in_vain = dict.fromkeys(slots, 0)
        """Looks since a job may have become claimable."""
        self._next_at = dict.fromkeys(self._in_vain, 0.0)
        """Infinite while a look is under way."""

    def look_again(self, slots: Collection[str]) -> None:
        """A job may have become claimable for these slots. A look that is under way may have come too early for it."""
        for slot in slots:
            self._in_vain[slot], self._next_at[slot] = 0, 0.0

    def begin(self, free: Collection[str]) -> set[str]:
        """Return for which of the free slots to look now."""
        now = time.monotonic()
        looking = {slot for slot in free if self._next_at[slot] <= now}
        if looking and self.is_poll(looking):
            looking = {slot for slot in free if self.is_poll([slot])}  # one statement for all that only poll
        self._next_at |= dict.fromkeys(looking, math.inf)
        return looking

    def end(self, looking: Collection[str], outcome: Outcome, *, listening: bool) -> None:
        """Plan the next look for these slots, except those for which a job may have become claimable meanwhile."""
        for slot in looking:
            if self._next_at[slot] == math.inf:
                self._in_vain[slot] += outcome == "in vain"
                self._next_at[slot] = time.monotonic() + self._pause_s(slot, outcome, listening)

    def is_first(self, slots: Collection[str]) -> bool:
        """Return True if one of these slots has not been looked for since a job may have become claimable."""
        return any(self._in_vain[slot] == 0 for slot in slots)

    def is_poll(self, slots: Collection[str]) -> bool:
        """Return True if nothing was found for any of these slots, and nothing has been heard of since."""
        return all(self._in_vain[slot] > len(AGAIN_AFTER_S) for slot in slots)

    def wait_s(self, free: Collection[str]) -> float | None:
        """Return how long to wait before the next look; None until a slot becomes free."""
        times = [self._next_at[slot] for slot in free]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _pause_s(self, slot: str, outcome: Outcome, listening: bool) -> float:
        in_vain = self._in_vain[slot]
        if outcome == "claimed":
            return 0.0
        if outcome == "failed":
            return AFTER_FAILURE_S
        if in_vain <= len(AGAIN_AFTER_S):
            return AGAIN_AFTER_S[in_vain - 1] * random.uniform(*AGAIN_JITTER)  # noqa: S311  jitter is not a secret
        if not listening:
            return POLL_WITHOUT_LISTEN_EVERY_S
        return POLL_EVERY_S * random.uniform(*POLL_JITTER)  # noqa: S311

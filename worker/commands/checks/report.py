"""What the checks found, told one line a check as each is done.

A check is a coroutine. It returns what it found, or raises: SettingsError for a fault, CheckWarning for something that
works and still deserves a look, CheckSkipped for something this pod may not see or does not need. No check hides
another: an exception, or a host that never answers, ends this one check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import psycopg

from worker.errors import SettingsError, WorkerError

DEADLINE_S = 20.0
"""Longer than a connection may take to come about."""


class State(StrEnum):
    """How a check ended, as it is shown."""

    SOUND = "✓"
    WRONG = "✗"
    ATTENTION = "!"
    ASIDE = "–"  # noqa: RUF001  a dash, as in tables


@dataclass(frozen=True)
class Finding:
    """What one check found, and the command or setting that mends it."""

    state: State
    name: str
    what: str
    cure: str = ""


class CheckWarning(Exception):
    """It works, and somebody should know."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


class CheckSkipped(Exception):
    """Neither right nor wrong: it cannot be seen from here, or this pod does without it."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


class Report:
    """Runs checks and hands each finding to `show` at once."""

    def __init__(self, show: Callable[[Finding], None], deadline_s: float = DEADLINE_S) -> None:
        self._show = show
        self._deadline_s = deadline_s
        self.findings: list[Finding] = []

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return all(finding.state != State.WRONG for finding in self.findings)

    def add(self, state: State, name: str, what: str, cure: str = "") -> None:
        self.findings.append(Finding(state, name, what, cure))
        self._show(self.findings[-1])

    def skip(self, why: str, *names: str) -> None:
        """Say of checks that depend on one that failed that they were not made."""
        for name in names:
            self.add(State.ASIDE, name, f"not checked: {why}")

    async def check(self, name: str, work: Awaitable[str], deadline_s: float | None = None) -> bool:
        """Make one check; True when what depends on it can be checked too."""
        deadline_s = deadline_s or self._deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                what = await work
        except CheckWarning as found:
            self.add(State.ATTENTION, name, found.what, found.cure)
        except CheckSkipped as found:
            self.add(State.ASIDE, name, found.what, found.cure)
        except SettingsError as error:
            self.add(State.WRONG, name, error.what, error.cure)
        except TimeoutError:
            self.add(
                State.WRONG, name, f"no answer within {deadline_s:g} s", "look at the network between here and there"
            )
        except WorkerError as error:
            self.add(State.WRONG, name, error.message)
        except psycopg.Error as error:
            said = error.diag.message_primary or type(error).__name__
            self.add(State.WRONG, name, f"the database says: {said}", "look at its log, and at what was found above")
        except OSError as error:
            self.add(State.WRONG, name, str(error), "look at what it names")
        except Exception as error:
            # What nobody thought of must not hide what the other checks would find. Its words may quote a secret.
            self.add(State.WRONG, name, f"the check itself failed: {type(error).__name__}", "report it as a bug")
        else:
            self.add(State.SOUND, name, what)
        return self.findings[-1].state in (State.SOUND, State.ATTENTION)

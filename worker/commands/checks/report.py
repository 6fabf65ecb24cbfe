"""Runs checks and reports what each found, one line per check, as soon as it is done.

A check is a coroutine. It returns what it found, or raises: SettingsError for a fault, CheckWarning for something that
works but needs attention, CheckSkipped for something that this pod may not see or does not need. No check hides
another: an exception, or a host that never responds, ends only its own check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import psycopg
from rich.console import Console
from rich.text import Text

from worker.database.meanings import explain_error
from worker.errors import SettingsError, WorkerError

DEADLINE_S = 20.0
"""Longer than connecting may take."""


class State(StrEnum):
    """How a check ended, as it is shown."""

    PASSED = "✓"
    FAILED = "✗"
    WARNING = "!"
    SKIPPED = "–"  # noqa: RUF001  a dash, as in tables


@dataclass(frozen=True)
class Finding:
    """What one check found, and how to fix it: a command or a setting."""

    state: State
    name: str
    message: str
    hint: str = ""


class CheckWarning(Exception):
    """It works, but needs attention."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckSkipped(Exception):
    """Neither passed nor failed: this pod may not see it, or does not need it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Report:
    """Runs checks and passes each finding to `show` at once."""

    def __init__(self, show: Callable[[Finding], None], deadline_s: float | None = None) -> None:
        self._show = show
        self._deadline_s = DEADLINE_S if deadline_s is None else deadline_s
        self.findings: list[Finding] = []

    @property
    def passed(self) -> bool:
        """No check failed."""
        return all(finding.state != State.FAILED for finding in self.findings)

    def add(self, state: State, name: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(state, name, message, hint))
        self._show(self.findings[-1])

    def skip(self, reason: str, *names: str) -> None:
        """Report checks as not made, because one that they depend on failed."""
        for name in names:
            self.add(State.SKIPPED, name, f"not checked: {reason}")

    async def check(self, name: str, work: Awaitable[str], deadline_s: float | None = None) -> bool:
        """Make one check. Returns True if what depends on it can be checked too."""
        deadline_s = deadline_s or self._deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                message = await work
        except CheckWarning as found:
            self.add(State.WARNING, name, found.message, found.hint)
        except CheckSkipped as found:
            self.add(State.SKIPPED, name, found.message, found.hint)
        except SettingsError as error:
            self.add(State.FAILED, name, error.problem, error.hint)
        except TimeoutError:
            self.add(State.FAILED, name, f"no response within {deadline_s:g} s", "check the network to this host")
        except WorkerError as error:
            self.add(State.FAILED, name, error.message)
        except psycopg.Error as error:
            explained = explain_error(error)
            self.add(State.FAILED, name, explained.problem, explained.hint)
        except OSError as error:
            self.add(State.FAILED, name, str(error), "check the file or address that the error names")
        except Exception as error:
            # An unexpected error must not hide what the other checks would find. Its text may quote a secret.
            self.add(State.FAILED, name, f"the check itself failed: {type(error).__name__}", "report it as a bug")
        else:
            self.add(State.PASSED, name, message)
        return self.findings[-1].state in (State.PASSED, State.WARNING)


COLOURS = {State.PASSED: "green", State.FAILED: "bold red", State.WARNING: "yellow", State.SKIPPED: "dim"}


def print_to(console: Console) -> Callable[[Finding], None]:
    """Return a function that prints a finding as one line, with its hint below. Plain text if not on a terminal."""

    def show(finding: Finding) -> None:
        mark = (f"{finding.state} ", COLOURS[finding.state])
        console.print(Text.assemble(mark, (f"{finding.name}: ", "bold"), finding.message), soft_wrap=True)
        if finding.hint:
            console.print(Text(f"    → {finding.hint}"), soft_wrap=True)

    return show

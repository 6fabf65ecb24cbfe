"""Performs checks in a process of their own, each within its deadline, and makes a line of each.

A check that raises becomes a line with `error`. One that passes its deadline is stopped, at first by an exception; if
it does not react, because it waits for the GPU, its process is killed. After an error that the device may not have
survived the next check runs in a new process. So no check can take the others with it.
"""

from __future__ import annotations

import importlib.metadata
import math
import multiprocessing
import os
import pkgutil
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn, Protocol

START_S = 180.0
"""How long a process may take to import its libraries and to find the device."""
GRACE_S = 10.0
"""How long a check that passed its deadline may take to end by itself."""
LIMIT_S = 480.0
"""How long all checks together may take. Those that have not begun by then are not run."""
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "spandrel", "pydantic", "numpy")

Figures = dict[str, Any]
"""By name, with their units in the names; None where there is nothing to measure."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One check. Its function is called with the process's `Bench` and the settings, and returns its figures."""

    group: str
    name: str
    function: str
    """As `module:function`, imported in the process that performs it."""
    deadline_s: float
    settings: Mapping[str, Any] = field(default_factory=dict)


class CheckFailed(Exception):
    """What was checked is not so. The figures that show it become part of the line."""

    def __init__(self, reason: str, figures: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.figures = figures


class DeadlinePassed(BaseException):
    """The check took too long. No `except Exception` of what it calls may catch this."""


def expect(condition: bool, reason: str, figures: Mapping[str, Any]) -> None:
    """Raise CheckFailed for this reason, with these figures, unless the condition holds."""
    if not condition:
        raise CheckFailed(reason, figures)


class Describes(Protocol):
    """What checks are given. Every process makes one."""

    def describe(self) -> Figures:
        """Return what this process can use: `device`, and `ok` or an `error` where no check can run."""


def run_checks(
    checks: Sequence[Check], bench: Callable[[], Describes], write: Callable[[Line], None], *, limit_s: float = LIMIT_S
) -> bool:
    """Write a line of versions, one for each check, and a summary; return True if all checks are ok.

    `bench` is called in each process that performs checks, and no check runs where it fails.
    """
    began = time.monotonic()
    failed: list[str] = []
    workers = _Workers(bench)
    write(workers.versions)
    try:
        for check in checks if workers.versions["ok"] else ():
            left_s = limit_s - (time.monotonic() - began)
            if left_s > 0:
                line = workers.perform(check, min(check.deadline_s, left_s))
            else:
                line = _line(check, 0.0, error=f"not run: all checks together may take {limit_s:.0f} s")
            write(line)
            if not line["ok"]:
                failed.append(f"{check.group}: {check.name}")
    finally:
        workers.end()
    ok = workers.versions["ok"] and not failed
    seconds = round(time.monotonic() - began, 3)
    write({"group": "summary", "ok": ok, "seconds": seconds, "checks": len(checks), "failed": failed})
    return ok


class _Workers:
    """One process after the other, each until it cannot go on."""

    def __init__(self, bench: Callable[[], Describes]) -> None:
        self._start = partial(_Worker, bench)
        self._worker: _Worker | None = self._start()
        self.versions = self._worker.versions

    def perform(self, check: Check, deadline_s: float) -> Line:
        """Return the check's line."""
        if self._worker is None:
            self._worker = self._start()
        if self._worker.versions.get("device") != self.versions["device"]:  # the driver failed
            line, reusable = _line(check, 0.0, error=f"not run: {self.versions['device']} is gone"), False
        else:
            line, reusable = self._worker.perform(check, deadline_s)
        if not reusable:
            self.end()
        return line

    def end(self) -> None:
        if self._worker is not None:
            self._worker.end()
        self._worker = None


class _Worker:
    """A process that performs checks, as its parent sees it."""

    def __init__(self, bench: Callable[[], Describes]) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, bench), daemon=True)
        self._process.start()
        theirs.close()
        began = time.monotonic()
        versions = self._answer(START_S) or {"ok": False, "error": self._how_it_ended(START_S)}
        self.versions: Line = {"group": "versions", "seconds": round(time.monotonic() - began, 3), **versions}
        """What it can use, and `ok` if it can perform checks."""

    def perform(self, check: Check, deadline_s: float) -> tuple[Line, bool]:
        """Return the check's line, and True if this process can perform another."""
        began = time.monotonic()
        with suppress(OSError):  # it has ended: the answer says how
            self._connection.send((check, deadline_s))
        answer = self._answer(deadline_s + GRACE_S)
        if answer is None:
            return _line(check, time.monotonic() - began, error=self._how_it_ended(deadline_s)), False
        line, reusable = answer
        return line, reusable

    def end(self) -> None:
        """Kill the process, which has nothing to save."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _answer(self, within_s: float) -> Any:
        """Return what it sends, or None if it takes longer or ends."""
        with suppress(EOFError, OSError):
            if self._connection.poll(within_s):
                return self._connection.recv()
        return None

    def _how_it_ended(self, deadline_s: float) -> str:
        self._process.join(1)
        code = self._process.exitcode
        if code is None:
            return f"passed its deadline of {deadline_s:g} s and was killed"
        return f"its process ended with {f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'}"


def _line(check: Check, seconds: float, figures: Mapping[str, Any] | None = None, error: str | None = None) -> Line:
    line: Line = {"group": check.group, "check": check.name, "ok": error is None, "seconds": round(seconds, 3)}
    for name, value in (figures or {}).items():
        unwritable = isinstance(value, float) and not math.isfinite(value)  # JSON has no such numbers
        line[name] = None if unwritable else value
    return line if error is None else line | {"error": error}


# -- in the process that performs the checks


def _serve(connection: Connection, make_bench: Callable[[], Describes]) -> None:
    os.dup2(2, 1)  # what libraries print must not get between the lines
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGALRM, _pass_deadline)
    try:
        bench = make_bench()
        described = bench.describe()
    except Exception as error:
        traceback.print_exc()
        described = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    connection.send(_versions() | described)
    while True:
        try:
            check, deadline_s = connection.recv()
        except EOFError:
            return
        connection.send(_perform(check, deadline_s, bench))


def _perform(check: Check, deadline_s: float, bench: Any) -> tuple[Line, bool]:
    """Return the check's line, and True unless the device or the models may not have survived it."""
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, deadline_s)
        try:
            figures = pkgutil.resolve_name(check.function)(bench, **check.settings)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except CheckFailed as failed:
        return _line(check, time.monotonic() - began, failed.figures, str(failed)), True
    except DeadlinePassed:
        traceback.print_exc()
        return _line(check, time.monotonic() - began, error=f"passed its deadline of {deadline_s:g} s"), False
    except BaseException as error:
        traceback.print_exc()
        reusable = not isinstance(error, (RuntimeError, MemoryError))  # what torch and CUDA raise
        return _line(check, time.monotonic() - began, error=f"{type(error).__name__}: {error}"), reusable
    return _line(check, time.monotonic() - began, figures), True


def _pass_deadline(number: int, frame: FrameType | None) -> NoReturn:
    raise DeadlinePassed


def _versions() -> dict[str, str | None]:
    """Return the versions of what decides the figures; None for a package that is not installed."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions

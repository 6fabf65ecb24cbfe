"""GPU tasks as an external package defines them: only messages, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from worker.gpu.messages import Event, Task

PERFORMERS = "tests.outside_performers"


class Remark(Event):
    """An event that CountTask declares."""

    about: int


class CountTask(Task):
    """Count to a number, with a Remark at each; `Done.result` also says what the GPU process has imported."""

    performer: ClassVar[str] = f"{PERFORMERS}:count"
    events: ClassVar[tuple[type[Event], ...]] = (Remark,)

    to: int


class FailTask(Task):
    """Raise what `error` names."""

    performer: ClassVar[str] = f"{PERFORMERS}:fail"

    error: str
    private: Path = Path("/private/Ada.jpg")


class WhisperTask(Task):
    """Report an event that this task does not declare."""

    performer: ClassVar[str] = f"{PERFORMERS}:whisper"


class ShoutTask(Task):
    """Report what is not an event at all."""

    performer: ClassVar[str] = f"{PERFORMERS}:shout"


class EndTask(Task):
    """End in a way that no task should; `how` names it."""

    performer: ClassVar[str] = f"{PERFORMERS}:end"

    how: str


class WaitTask(Task):
    """Never end; report a step every hundredth of a second."""

    performer: ClassVar[str] = f"{PERFORMERS}:wait"


class ReadTask(Task):
    """Read a file in a phase without steps."""

    performer: ClassVar[str] = f"{PERFORMERS}:read"

    path: Path


class ExitTask(Task):
    """A task whose performer's module ends the process that imports it."""

    performer: ClassVar[str] = "tests.outside_exit:perform"


class BrokenTask(Task):
    """A task whose performer cannot be imported."""

    performer: ClassVar[str] = "tests.outside_nothing:perform"

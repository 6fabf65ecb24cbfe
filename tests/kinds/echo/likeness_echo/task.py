"""What the worker asks its GPU process for. Imported by both, so without torch."""

from pathlib import Path
from typing import ClassVar

from worker.gpu.messages import Task


class EchoTask(Task):
    """Write `words` to a file, `times` times. `Done.result`: `path`, `times`."""

    performer: ClassVar[str] = "likeness_echo.performer:perform"

    words: str
    times: int
    pause_s: float
    workdir: Path

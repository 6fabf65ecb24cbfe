"""Output that may have nowhere to go: `worker run | head`, a log on a full disk, a service without stdout."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO


class LossyStream(io.TextIOWrapper):
    """A line that cannot be written is lost; the work that wrote it goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def ignore_write_errors() -> None:
    """From here on, for this process's stdout and stderr. Only a reader that lives and does not read makes it wait."""
    sys.stdout, sys.stderr = map(_lossy, (sys.stdout, sys.stderr))


def _lossy(stream: TextIO | None) -> LossyStream:
    if stream is None:  # closed when the process began
        return LossyStream(open(os.devnull, "wb"), "utf-8")
    return LossyStream(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True)

"""Output that nobody may be reading any more: `worker run | head`, a log on a full disk."""

from __future__ import annotations

import io
import sys
from contextlib import suppress


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


def lose_what_cannot_be_written() -> None:
    """From here on, for this process's stdout and stderr."""
    sys.stdout, sys.stderr = (
        LossyStream(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True)
        for stream in (sys.stdout, sys.stderr)
    )

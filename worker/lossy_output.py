"""Ignore output that cannot be written: `worker run | head`, a log on a full disk, a service without stdout."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO


class LossyStream(io.TextIOWrapper):
    """A stream that drops lines that cannot be written, so that the work continues."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def ignore_write_errors() -> None:
    """Drop what cannot be written to stdout and stderr from now on.

    Writes still block while a reader is alive and does not read.
    """
    sys.stdout, sys.stderr = map(_lossy, (sys.stdout, sys.stderr))


def _lossy(stream: TextIO | None) -> LossyStream:
    if stream is None:  # it was closed when the process started
        return LossyStream(open(os.devnull, "wb"), "utf-8")
    return LossyStream(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True)

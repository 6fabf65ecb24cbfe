"""How a command ends: its exit code, and its refusal on standard error."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from worker.errors import SettingsError

FAILED = 1
WRONG_SETTINGS = 2


def leave(code: int) -> NoReturn:
    """End the process. Not by returning: the interpreter would first join threads that wait for a store that hangs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def refuse_settings(error: SettingsError) -> int:
    """Print which settings are wrong. Returns the exit code."""
    print_error(f"Settings are wrong:\n{error}")
    return WRONG_SETTINGS


def print_error(text: str) -> None:
    """Print to standard error, without control characters: the text may repeat a name from a user's file."""
    from worker.console import sanitize_line

    typer.echo("\n".join(map(sanitize_line, text.splitlines())), err=True)

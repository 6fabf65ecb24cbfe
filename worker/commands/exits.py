"""How a command ends: its exit code, and its refusal on standard error."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from worker.errors import CommandRefused, SettingsError, WorkerError

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


def refuse(error: Exception) -> int | None:
    """Print why a command ended and return its exit code; None for an error that is a bug of this program.

    The one place for what can go wrong outside of it: settings, the database, the object store, files.
    """
    if isinstance(error, SettingsError):
        return refuse_settings(error)
    reason = _reason(error)
    if reason is None:
        return None
    print_error(f"Refused: {reason}")
    return FAILED


def _reason(error: Exception) -> str | None:
    import psycopg

    from worker.database.meanings import explain_error
    from worker.database.schema.sql_files import MigrationError

    match error:
        case CommandRefused() | MigrationError() | WorkerError():
            return str(error)
        case psycopg.Error():
            return str(explain_error(error))
        case OSError(filename=None):
            return error.strerror or type(error).__name__
        case OSError():
            return f"{error.filename}: {error.strerror}"
    return None


def print_error(text: str) -> None:
    """Print to standard error, without control characters: the text may repeat a name from a user's file."""
    from worker.console import sanitize_line

    typer.echo("\n".join(map(sanitize_line, text.splitlines())), err=True)

"""The connection of the database's owner, for commands that show people's jobs or change what pods may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from worker.database.connections import OwnConnection
from worker.database.errors import explain_connection
from worker.database.transient import Fault, fault_of
from worker.errors import CommandRefused

Connection = psycopg.Connection[dict[str, Any]]


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Open an autocommit connection; rows are dicts.

    Raises SettingsError if it fails. Within it, a missing right, a missing schema and a broken connection raise
    CommandRefused.
    """
    try:
        connection = OwnConnection.open(url, "likeness command")
    except psycopg.OperationalError as error:
        raise explain_connection(error, "DATABASE_URL") from error
    with connection:
        try:
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise CommandRefused(
                f"permission denied for {connection.info.user} ({error.diag.message_primary}): "
                "set DATABASE_URL to the URL of the database's owner (postgres, on Supabase), not of a pod"
            ) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction) as error:
            raise CommandRefused(
                "schema worker not found here, or of an older release: as the database owner, worker migrate"
            ) from error
        except psycopg.Error as error:
            reason = error.diag.message_primary or "the connection broke"
            raise CommandRefused(f"the database failed: {reason}; {_advice(error)}") from error


def _advice(error: psycopg.Error) -> str:
    if error.sqlstate == "25006":
        return "it is a replica, or Supabase has made it read-only because the disk is full"
    if fault_of(error) is Fault.PASSING:
        return "try again, and check it with worker doctor"
    return "its log says more; check it with worker doctor"

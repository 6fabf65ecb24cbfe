"""The connection of the database's owner, for commands that show people's jobs or change what pods may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from worker.database.errors import explain_connection
from worker.database.lenient_types import lenient_types
from worker.database.pool import KEEPALIVES
from worker.errors import CommandRefused

Connection = psycopg.Connection[dict[str, Any]]


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Open an autocommit connection; rows are dicts.

    Raises SettingsError if it fails. Within it, a missing right, a missing schema and a broken connection raise
    CommandRefused.
    """
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            context=lenient_types(),
            application_name="likeness command",
            **KEEPALIVES,
        )
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
        except psycopg.OperationalError as error:
            reason = error.diag.message_primary or "the connection broke"
            raise CommandRefused(
                f"the database failed: {reason}; try again, and check it with worker doctor"
            ) from error

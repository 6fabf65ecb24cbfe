"""The connection of the database's owner, for commands that show people's jobs or change what pods may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from worker.database.connections import OwnConnection
from worker.database.errors import explain_connection
from worker.database.meanings import explain_error
from worker.errors import CommandRefused

Connection = psycopg.Connection[dict[str, Any]]


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Open an autocommit connection; rows are dicts.

    Raises SettingsError if it fails. Within it, each error of the database raises CommandRefused.
    """
    try:
        connection = OwnConnection.open(url, "likeness command")
    except psycopg.OperationalError as error:
        raise explain_connection(error, "DATABASE_URL") from error
    with connection:
        try:
            yield connection
        except psycopg.Error as error:
            raise CommandRefused(str(explain_error(error, connection.info.user))) from error

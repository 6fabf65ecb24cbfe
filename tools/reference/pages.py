"""Every reference page by its file name."""

from __future__ import annotations

import psycopg

from tools.reference.commands import commands_page
from tools.reference.errors import errors_page
from tools.reference.functions import functions_page
from tools.reference.settings import settings_page
from tools.reference.sources import sources_page
from tools.reference.tables import tables_page


def render(database_url: str) -> dict[str, str]:
    """The texts, from the code and from the catalog of a database that was just migrated."""
    with psycopg.connect(database_url) as connection:
        return {
            "tables.md": tables_page(connection),
            "functions.md": functions_page(connection),
            "settings.md": settings_page(),
            "commands.md": commands_page(),
            "errors.md": errors_page(),
            "sources.md": sources_page(),
        }

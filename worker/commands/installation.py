"""`worker installation`: which database the buckets belong to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

from worker.commands.exits import leave, print_error

if TYPE_CHECKING:
    from worker.settings import Settings

app = typer.Typer(
    name="installation",
    help="Say whether this database was moved or copied.",
    epilog='Example: DATABASE_URL="$OWNERS_URL" worker installation moved',
    no_args_is_help=True,
)


@app.command(epilog='Example: DATABASE_URL="$OWNERS_URL" worker installation moved')
def moved() -> None:
    """Continue the installation in this database: the old one is gone.

    After a restore, a change of server or a major upgrade. The buckets stay this installation's; a database that still
    uses them is refused from now on. New attempts write under prefixes of a new era. Reads DATABASE_URL, which must be
    the database owner's URL, and the settings of the object store.
    """
    from worker.commands.installation_change import move

    _change(move)


@app.command(epilog='Example: DATABASE_URL="$OWNERS_URL" worker installation adopt')
def adopt() -> None:
    """Make this copy of a database an installation of its own.

    For a staging copy or a branch. It needs buckets of its own: those of the settings, which must be those of
    worker.config, must not be marked; missing ones are created. Reads DATABASE_URL, which must be the database owner's
    URL, and the settings of the object store.
    """
    from worker.commands.installation_change import adopt

    _change(adopt)


def _change(change: Callable[[Settings], Awaitable[str]]) -> None:
    import asyncio

    from worker.commands.exits import FAILED, refuse_settings
    from worker.errors import CommandRefused, SettingsError
    from worker.settings import Settings

    settings = Settings.load()

    async def main() -> None:
        try:
            typer.echo(await change(settings))
        except SettingsError as error:
            leave(refuse_settings(error))
        except CommandRefused as error:
            print_error(f"Refused: {error}")
            leave(FAILED)
        leave(0)

    asyncio.run(main())

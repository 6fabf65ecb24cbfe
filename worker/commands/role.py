"""`worker role`: a database login for pods."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog='Example: DATABASE_URL="$OWNERS_URL" worker role likeness_pod --apply')
def role(
    name: Annotated[str, typer.Argument(help="The login: one for each pod, or one for all of them.")],
    connection_limit: Annotated[
        int | None, typer.Option(help="Connections this login may have at once; a pod needs five.", min=5)
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Give an existing login a new password.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Run the SQL instead of printing it.")] = False,
) -> None:
    """Create a database login for pods.

    Prints the SQL that creates it on standard output, without the password, and on standard error the pod's own
    DATABASE_URL. With --apply, standard output is the pod's DATABASE_URL, as a line for its .env. Reads DATABASE_URL,
    which must be the database owner's URL.
    """
    from worker.database.owner import connect
    from worker.database.role import apply_login, make_login
    from worker.settings import Settings

    url = Settings.load(storage=False).database_url.get_secret_value()
    login = make_login(name, url, connection_limit, rotate=rotate)
    if apply:
        with connect(url) as connection:
            apply_login(connection, login, rotate=rotate)
        typer.echo(f"{name} has a new password." if rotate else f"{name} was created.", err=True)
    else:
        typer.echo(login.script, nl=False)
        typer.echo("# Nothing was changed. Run the SQL above as the database owner, then give the pod:", err=True)
    for number, (way, address) in enumerate(login.addresses.items()):
        # One of them is in effect where this is a .env: the one that works from every pod.
        typer.echo(f"# {way}\n{'# ' if number else ''}DATABASE_URL={address}", err=not apply)

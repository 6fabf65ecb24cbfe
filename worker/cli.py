"""The `worker` command: its global options, one line per command, and how errors end it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from worker import __version__
from worker.commands import (
    demo,
    doctor,
    health,
    installation,
    job,
    lora,
    migrate,
    models,
    role,
    run,
    screen,
    status,
    storage,
)
from worker.commands.exits import refuse

app = typer.Typer(
    help="Likeness: a Postgres-native GPU worker. Trains LoRAs and generates pictures of people who consented.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(run.app)
app.add_typer(migrate.app)
app.add_typer(health.app)
app.add_typer(doctor.app)
app.add_typer(status.app)
app.add_typer(job.app)
app.add_typer(role.app)
app.add_typer(storage.app)
app.add_typer(installation.app)
app.add_typer(models.app)
app.add_typer(lora.app)
app.add_typer(screen.app)
app.add_typer(demo.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root_callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the release.")
    ] = False,
) -> None:
    """Global options."""


def main() -> None:
    """Run the command. A wrong setting ends it with exit code 2 before anything starts, a refusal with 1."""
    try:
        app()
    except Exception as error:
        code = refuse(error)
        if code is None:
            raise
        sys.exit(code)

"""`worker job`: one job, shown, requeued or cancelled."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from worker.commands.exits import leave


class _JobGroup(TyperGroup):
    """`worker job ID` is `worker job show ID`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = not args or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["show", *args])


app = typer.Typer(
    name="job",
    cls=_JobGroup,
    help="Show one job (worker job ID), requeue it or cancel it.",
    subcommand_metavar="ID | COMMAND ID",
    epilog="Example: worker job 6a05f1e2",
    no_args_is_help=True,
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its first digits (four or more).")]


@app.command(epilog="Example: worker job 6a05f1e2")
def show(given: JobId) -> None:
    """Show one job in full, and what to do next.

    Its request, attempts, events and files. worker job ID does the same. Reads DATABASE_URL, which must be the
    database owner's URL, and the S3 settings for the sizes of files.
    """
    from worker.commands.job_report import print_job
    from worker.console import console
    from worker.database.owner import connect
    from worker.settings import Settings

    settings = Settings.load(storage=False)
    with connect(settings.database_url.get_secret_value()) as connection:
        print_job(connection, given, settings, console())
    leave(0)


@app.command(epilog="Example: worker job retry 6a05f1e2")
def retry(given: JobId) -> None:
    """Requeue a failed or cancelled job.

    Reads DATABASE_URL, which must be the database owner's URL.
    """
    from worker.commands.job_lookup import retry_job
    from worker.database.owner import connect
    from worker.settings import Settings

    with connect(Settings.load(storage=False).database_url.get_secret_value()) as connection:
        typer.echo(retry_job(connection, given))


@app.command(epilog="Example: worker job cancel 6a05f1e2")
def cancel(given: JobId) -> None:
    """Cancel a queued or running job.

    Reads DATABASE_URL, which must be the database owner's URL.
    """
    from worker.commands.job_lookup import cancel_job
    from worker.database.owner import connect
    from worker.settings import Settings

    with connect(Settings.load(storage=False).database_url.get_secret_value()) as connection:
        typer.echo(cancel_job(connection, given))

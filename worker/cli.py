"""The `worker` command. No logic: each command builds settings and calls one function; heavy imports are local."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from worker.errors import SettingsError

app = typer.Typer(
    help="Likeness: a Postgres-native GPU worker. Trains LoRAs and draws pictures of people who agreed to it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog="Example: DATABASE_URL=… S3_ENDPOINT_URL=… worker run")
def run() -> None:
    """Claim jobs and work until SIGTERM or Ctrl-C; a second one stops at once. Settings: see .env.example."""
    import asyncio
    import signal

    import structlog

    from worker import logs
    from worker.queue import Worker
    from worker.settings import Settings

    async def main() -> NoReturn:
        worker = Worker(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.request_stop)
        code = 0
        try:
            await worker.run()
        except SettingsError as error:
            code = _refuse(error)
        except Exception:
            structlog.get_logger().exception("worker.crashed")
            code = 1
        sys.stdout.flush()
        # Not by returning: the interpreter would first join threads that wait for a store that hangs.
        os._exit(code)

    settings = Settings.load()
    logs.configure(settings.log_format)
    asyncio.run(main())


@app.command(epilog="Example: worker migrate --print --since 2 > supabase/migrations/20260101000000_likeness.sql")
def migrate(
    print_sql: Annotated[
        bool, typer.Option("--print", help="Print one plain SQL file instead of applying it.")
    ] = False,
    since: Annotated[int, typer.Option(help="With --print: only numbered migrations after this one.", min=0)] = 0,
    stand_ins: Annotated[
        bool,
        typer.Option("--stand-ins", help="Plain Postgres only: first make stand-ins for what Supabase provides."),
    ] = False,
) -> None:
    """Bring the database up to date, as its owner. Safe to repeat."""
    from worker import migrate as migrations
    from worker.settings import Settings

    if print_sql:
        sys.stdout.write(migrations.render(since))
        return
    url = Settings.load(storage=False).database_url.get_secret_value()
    try:
        if stand_ins:
            migrations.install_stand_ins(url)
        names = migrations.migrate(url)
    except migrations.MigrationError as error:
        typer.echo(f"migrate: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo("Applied: " + ", ".join(names) if names else "Up to date: nothing to apply.")


@app.command(epilog="Example: worker demo --photos ~/Pictures/me --keep")
def demo(
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Your own pictures (JPEG, PNG, HEIC), at least six, instead of the drawn person.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the pictures, the LoRA and summary.json go.")] = Path(
        "demo-output"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Postgres and the S3 server up to look around, until Ctrl-C.")
    ] = False,
) -> None:
    """From an INSERT to a consenting person's picture, on this machine alone: embedded Postgres, S3, a tiny model."""
    try:
        from worker.demo.run import main as run_demo
    except ModuleNotFoundError as error:
        typer.echo(f"demo: {error.name} is not installed; pip install 'likeness-worker[demo]'", err=True)
        raise typer.Exit(2) from error

    raise typer.Exit(run_demo(output, photos, keep=keep))


def main() -> None:
    """Entry point: a wrong setting ends with exit code 2, named, before anything starts."""
    try:
        app()
    except SettingsError as error:
        sys.exit(_refuse(error))


def _refuse(error: SettingsError) -> int:
    typer.echo(f"Settings are wrong:\n{error}", err=True)
    return 2

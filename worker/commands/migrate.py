"""`worker migrate`: the database's schema, applied or printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.exits import FAILED, print_error
from worker.errors import CommandRefused

if TYPE_CHECKING:
    from worker.database.schema.migrate import Repair

app = typer.Typer()


@app.command(epilog="Example: worker migrate --print --since 2 > supabase/migrations/20260101000000_likeness.sql")
def migrate(
    print_sql: Annotated[
        bool, typer.Option("--print", help="Print one plain SQL file instead of applying it. Needs no database.")
    ] = False,
    since: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|PACKAGE:N",
            help="With --print: only numbered migrations after this one, of this project or of a package.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE", help="Leave out a package: it is not installed here, or must not be applied now."
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Also mend what the database lost since it was migrated, such as policies after a dump and restore.",
        ),
    ] = False,
    supabase_stubs: Annotated[
        bool,
        typer.Option("--supabase-stubs", help="Plain Postgres only: first create stubs for what Supabase provides."),
    ] = False,
    stand_ins: Annotated[
        bool, typer.Option("--stand-ins", hidden=True, help="The old name of --supabase-stubs.")
    ] = False,
) -> None:
    """Migrate the database to this release. Safe to repeat.

    Includes the SQL of installed packages that add kinds of job. Reads DATABASE_URL, which must be the database owner's
    URL.
    """
    from worker.database.schema import migrate as migrations
    from worker.database.schema.catalog import summarize
    from worker.database.schema.printed import render
    from worker.database.schema.sql_files import normal_name
    from worker.settings import Settings

    if since and not print_sql:
        raise CommandRefused("--since requires --print; without it, worker migrate applies whatever is missing")
    if stand_ins:
        typer.echo("migrate: --stand-ins was renamed --supabase-stubs; the next release removes the old name", err=True)
        supabase_stubs = True
    if supabase_stubs and print_sql:
        raise CommandRefused("--supabase-stubs changes the database and cannot be combined with --print")
    if repair and print_sql:
        raise CommandRefused("--repair changes the database and cannot be combined with --print")
    left_out = {normal_name(package) for package in without or ()}
    try:
        if print_sql:
            number, numbers_of = _read_since(since or [])
            sys.stdout.write(render(number, since_of=numbers_of, without=left_out))
            return
        url = Settings.load(storage=False).database_url.get_secret_value()
        if supabase_stubs and not migrations.install_supabase_stubs(url):
            typer.echo("No stubs were created: auth.users already exists.")
        if repair:
            _print_repair(migrations.repair(url, without=left_out, warn=_warn))
            return
        names = migrations.migrate(url, without=left_out, warn=_warn)
        damage = migrations.damage(url)
    except migrations.MigrationError as error:
        print_error(f"migrate: {error}")
        raise typer.Exit(FAILED) from error
    typer.echo("Applied: " + ", ".join(names) if names else "Up to date: nothing to apply.")
    if damage:
        _warn(f"not as the migrations left it: {summarize(damage)}. To mend it: worker migrate --repair")


def _warn(text: str) -> None:
    print_error(f"Warning: {text}")


def _print_repair(done: Repair) -> None:
    """Print what was mended, and what was not. Raises typer.Exit if anything was not."""
    if done.files:
        typer.echo("Applied: " + ", ".join(done.files))
    for damage in done.mended:
        typer.echo(f"Repaired: {damage}")
    for damage in done.left:
        advice = "drop it if nobody meant it" if damage.is_an_apps_own else "mend it by hand, or from a backup"
        print_error(f"Not repaired: {damage}; {advice}")
    if not done.files:
        typer.echo("Nothing to repair.")
    if not all(damage.is_an_apps_own for damage in done.left):
        raise typer.Exit(FAILED)


def _read_since(given: list[str]) -> tuple[int, dict[str, int]]:
    """Return the number for this project (0 without one), and those of packages. Raises CommandRefused."""
    from worker.database.schema.sql_files import normal_name

    number, numbers_of = 0, {}
    for item in given:
        package, _, digits = item.rpartition(":")
        if not digits.isdecimal():
            raise CommandRefused(f"--since {item} must be a number, or a package and a number, such as likeness-echo:1")
        if package:
            numbers_of[normal_name(package)] = int(digits)
        else:
            number = int(digits)
    return number, numbers_of

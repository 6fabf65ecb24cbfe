"""The `worker` command. No logic: each command builds settings and calls one function; heavy imports are local."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from worker import __version__
from worker.commands import screen
from worker.errors import CommandRefused, SettingsError


class _JobGroup(TyperGroup):
    """`worker job ID` is `worker job show ID`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = not args or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["show", *args])


app = typer.Typer(
    help="Likeness: a Postgres-native GPU worker. Trains LoRAs and draws pictures of people who agreed to it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


job = typer.Typer(cls=_JobGroup, no_args_is_help=True, rich_markup_mode=None, epilog="Example: worker job 6a05f1e2")
app.add_typer(job, name="job", help="One job in full: worker job ID. Or put it back (retry), or stop it (cancel).")
storage = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog="Example: worker storage init")
app.add_typer(storage, name="storage", help="The object store.")
models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog="Example: worker models list")
app.add_typer(models, name="models", help="Base models and upscalers: bring them to this disk, share them.")
lora = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog="Example: worker lora export --help")
app.add_typer(lora, name="lora", help="Trained LoRAs as files.")
app.add_typer(screen.app)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root_callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the release.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command(epilog="Example: DATABASE_URL=… S3_ENDPOINT_URL=… worker run")
def run() -> None:
    """Claim jobs and work until SIGTERM or Ctrl-C; a second one stops at once. Settings: see .env.example."""
    import asyncio
    import signal

    import structlog

    from worker import logs
    from worker.lossy_output import ignore_write_errors
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
        _leave(code)

    settings = Settings.load()
    ignore_write_errors()
    logs.configure(settings.log_format)
    asyncio.run(main())


@app.command(epilog="Example: worker migrate --print --since 2 > supabase/migrations/20260101000000_likeness.sql")
def migrate(
    print_sql: Annotated[
        bool, typer.Option("--print", help="Print one plain SQL file instead of applying it.")
    ] = False,
    since: Annotated[int, typer.Option(help="With --print: only numbered migrations after this one.", min=0)] = 0,
    supabase_stubs: Annotated[
        bool,
        typer.Option("--supabase-stubs", help="Plain Postgres only: first create stubs for what Supabase provides."),
    ] = False,
    stand_ins: Annotated[
        bool, typer.Option("--stand-ins", hidden=True, help="The old name of --supabase-stubs.")
    ] = False,
) -> None:
    """Bring the database up to date, as its owner. Safe to repeat."""
    from worker.database import migrate as migrations
    from worker.database.printed import render
    from worker.settings import Settings

    if since and not print_sql:
        raise CommandRefused("--since goes with --print: worker migrate knows itself what the database has")
    if stand_ins:
        typer.echo("migrate: --stand-ins is now --supabase-stubs; the old name goes in the next release", err=True)
        supabase_stubs = True
    if supabase_stubs and print_sql:
        raise CommandRefused("--supabase-stubs creates them in the database at once: it does not go with --print")
    try:
        if print_sql:
            sys.stdout.write(render(since))
            return
        url = Settings.load(storage=False).database_url.get_secret_value()
        if supabase_stubs and not migrations.install_supabase_stubs(url):
            typer.echo("No stubs are created: auth.users exists already.")
        names = migrations.migrate(url)
    except migrations.MigrationError as error:
        typer.echo(f"migrate: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo("Applied: " + ", ".join(names) if names else "Up to date: nothing to apply.")


@app.command(epilog="Example: worker health")
def health() -> None:
    """Whether the workers of this machine turn, for a container's health check. Asks neither database nor store."""
    from worker.commands.health import health_error
    from worker.settings import Settings

    error = health_error(Settings.load(storage=False, database=False).work_dir)
    if error:
        typer.echo(f"health: {error}", err=True)
        raise typer.Exit(1)
    typer.echo("Every worker of this machine turns.")


@app.command(epilog="Example: worker doctor && worker run")
def doctor() -> None:
    """Say what is wrong with this installation, and what mends it. Exit code 1 when anything is.

    Runs with a pod's own settings; what only the owner of the database may see, it says so.
    """
    import asyncio
    import logging

    import structlog

    from worker.commands.doctor import examine, show_on
    from worker.console import console

    # Its lines say it all: a pod's own warnings would repeat them in other words.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

    async def main() -> NoReturn:
        _leave(0 if await examine(show_on(console())) else 1)

    asyncio.run(main())


@app.command(epilog="Example: worker status")
def status() -> None:
    """What waits and runs, which pods live, what none of them can take, what failed. More with the owner's URL."""
    from worker.commands.status import print_status
    from worker.console import console
    from worker.database.owner import connect
    from worker.settings import Settings

    with connect(Settings.load(storage=False).database_url.get_secret_value()) as connection:
        print_status(connection, console())


@job.command(epilog="Example: worker job 6a05f1e2")
def show(given: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its beginning.")]) -> None:
    """Print all there is to know about one job, and what to do next. Needs the URL of the database's owner."""
    from worker.commands.job_report import print_job
    from worker.console import console
    from worker.database.owner import connect
    from worker.settings import Settings

    settings = Settings.load(storage=False)
    with connect(settings.database_url.get_secret_value()) as connection:
        print_job(connection, given, settings, console())
    _leave(0)


@job.command(epilog="Example: worker job retry 6a05f1e2")
def retry(given: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its beginning.")]) -> None:
    """Put a failed or cancelled job back on the queue. Needs the URL of the database's owner."""
    from worker.commands.job_lookup import retry_job
    from worker.database.owner import connect
    from worker.settings import Settings

    with connect(Settings.load(storage=False).database_url.get_secret_value()) as connection:
        typer.echo(retry_job(connection, given))


@job.command(epilog="Example: worker job cancel 6a05f1e2")
def cancel(given: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its beginning.")]) -> None:
    """Stop a job that waits or runs. Needs the URL of the database's owner."""
    from worker.commands.job_lookup import cancel_job
    from worker.database.owner import connect
    from worker.settings import Settings

    with connect(Settings.load(storage=False).database_url.get_secret_value()) as connection:
        typer.echo(cancel_job(connection, given))


@app.command(epilog='Example: DATABASE_URL="$OWNERS_URL" worker role likeness_pod --apply')
def role(
    name: Annotated[str, typer.Argument(help="The login, one for each pod or for all of them.")],
    connection_limit: Annotated[
        int | None, typer.Option(help="Connections this login may have at once; a pod needs five.", min=5)
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Give an existing login a new password.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Run the SQL instead of printing it.")] = False,
) -> None:
    """Make a pod's login: SQL on standard output, and on standard error the DATABASE_URL to give the pod.

    Reads the database's address from DATABASE_URL, which must be the owner's. The SQL holds no password.
    """
    from worker.database.owner import connect
    from worker.database.role import apply_login, make_login
    from worker.settings import Settings

    url = Settings.load(storage=False).database_url.get_secret_value()
    login = make_login(name, url, connection_limit, rotate=rotate)
    if apply:
        with connect(url) as connection:
            apply_login(connection, login, rotate=rotate)
        typer.echo(f"{name} has a new password." if rotate else f"{name} is made.", err=True)
    else:
        typer.echo(login.script, nl=False)
        typer.echo("# Nothing is made yet: run the SQL above as the owner. Then, for the pod:", err=True)
    for way, address in login.addresses.items():
        typer.echo(f"# {way}\nDATABASE_URL={address}", err=True)


@storage.command(epilog="Example: worker storage init")
def init() -> None:
    """Make the buckets that the settings name, private, and try to write, read and delete in each."""
    import asyncio

    from worker.commands.checks.report import Report
    from worker.commands.doctor import show_on
    from worker.commands.storage_init import make_buckets
    from worker.console import console
    from worker.settings import Settings

    settings = Settings.load(database=False)
    report = Report(show_on(console()))

    async def main() -> NoReturn:
        await make_buckets(settings, report)
        _leave(0 if report.sound else 1)

    asyncio.run(main())


@lora.command(epilog="Example: worker lora export lora.safetensors --format kohya --output for-comfyui.safetensors")
def export(
    source: Annotated[
        str, typer.Argument(metavar="FILE|ID", help="A LoRA file, or the id of a row of subjects_models.")
    ],
    naming: Annotated[
        Literal["kohya", "diffusers"],
        typer.Option("--format", help="kohya: for the programs people draw with. diffusers: for Python."),
    ],
    output: Annotated[Path, typer.Option(help="The file to write; one that exists is not overwritten.")],
) -> None:
    """Write a LoRA in the names that another program reads. With an id, needs the URL of the database's owner."""
    from worker.commands.lora_export import export

    made = export(source, naming, output)
    typer.echo(f"{made.path}: a LoRA for {made.family}, {made.layers} layers in {naming} names, SHA-256 {made.sha256}")


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


@models.command(epilog="Example: HF_TOKEN=… worker models pull black-forest-labs/FLUX.1-dev --as flux-dev")
def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub, in diffusers layout.")],
    slug: Annotated[str, typer.Option("--as", metavar="SLUG", help="What worker.base_models calls it.")],
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit; the default is the newest of the main branch.")
    ] = None,
) -> None:
    """Bring a base model from a Hugging Face hub to MODELS_DIR: one commit, safetensors only, checksums compared.

    An interrupted pull goes on where it stopped. A gated base needs HF_TOKEN.
    """
    from worker.commands import models as actions
    from worker.settings import Settings

    actions.pull(Settings.load(storage=False, database=False), repo, slug, revision)


@models.command(epilog="Example: worker models push flux-dev")
def push(slug: Annotated[str, typer.Argument(metavar="SLUG", help="A folder of MODELS_DIR.")]) -> None:
    """Upload a model from MODELS_DIR to the model bucket, for all pods. What is there already is not sent again."""
    from worker.commands import models as actions
    from worker.settings import Settings

    actions.push(Settings.load(database=False), slug)


@models.command("list", epilog="Example: worker models list --check")
def list_(
    check: Annotated[
        bool, typer.Option("--check", help="Compare every byte on this disk with its checksum: minutes.")
    ] = False,
) -> None:
    """Print every model: family, licence, size, where it is and whether it is whole, and the routes it enables.

    Works without a database and without a bucket, and then says less. Exit code 1 when something is damaged.
    """
    from worker.commands import models as actions
    from worker.settings import Settings

    actions.list_(Settings.load(storage=False, database=False), thorough=check)


@models.command(
    "import",
    epilog="Example: worker models import flux-dev --transformer flux1-dev.safetensors --vae ae.safetensors "
    "--clip clip_l.safetensors --t5 t5xxl_fp16.safetensors --tokenizers ./FLUX.1-dev",
)
def import_(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="What worker.base_models calls it.")],
    transformer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FLUX: the transformer.", exists=True, dir_okay=False)
    ] = None,
    vae: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="FLUX: the autoencoder. SD 1.5: another one.", exists=True, dir_okay=False),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FLUX: the CLIP-L text encoder.", exists=True, dir_okay=False)
    ] = None,
    t5: Annotated[
        Path | None, typer.Option(metavar="FILE", help="FLUX: the T5-XXL text encoder.", exists=True, dir_okay=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="SD 1.5: all in one file.", exists=True, dir_okay=False)
    ] = None,
    upscaler: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Real-ESRGAN: .pth or .safetensors.", exists=True, dir_okay=False),
    ] = None,
    tokenizers: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder with tokenizer/ (FLUX: and tokenizer_2/).", exists=True),
    ] = None,
    configs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the model differs from the published one: its configs.", exists=True),
    ] = None,
) -> None:
    """Make a model in MODELS_DIR out of the single files that ComfyUI and the publishers use. Needs no network."""
    from worker.commands import models as actions
    from worker.settings import Settings

    given = {
        "transformer": transformer,
        "vae": vae,
        "clip": clip,
        "t5": t5,
        "checkpoint": checkpoint,
        "upscaler": upscaler,
    }
    files = {name: file for name, file in given.items() if file is not None}
    actions.import_(Settings.load(storage=False, database=False), slug, files, tokenizers, configs)


def main() -> None:
    """Entry point: a wrong setting ends with exit code 2, named, before anything starts."""
    try:
        app()
    except SettingsError as error:
        sys.exit(_refuse(error))
    except CommandRefused as error:
        _say_error(f"Refused: {error}")
        sys.exit(1)


def _leave(code: int) -> NoReturn:
    """End the process. Not by returning: the interpreter would first join threads that wait for a store that hangs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse(error: SettingsError) -> int:
    _say_error(f"Settings are wrong:\n{error}")
    return 2


def _say_error(text: str) -> None:
    """Without what could steer the terminal: it may repeat a name out of somebody's file."""
    from worker.console import sanitize_line

    typer.echo("\n".join(map(sanitize_line, text.splitlines())), err=True)

"""`worker demo`: the whole pipeline on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.commands.exits import WRONG_SETTINGS

app = typer.Typer()


@app.command(epilog="Example: worker demo --photos ~/Pictures/me --keep")
def demo(
    photos: Annotated[
        Path | None,
        typer.Option(
            help="A folder with at least six photos of you (JPEG, PNG, HEIC), instead of the drawn person.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where to write the pictures, the LoRA and summary.json.")] = Path(
        "demo-output"
    ),
    base: Annotated[
        str | None,
        typer.Option(
            help="A tiny base model of random weights, to try its family's path instead of the demo's own small one; "
            "`--base list` names them."
        ),
    ] = None,
    uno: Annotated[
        bool,
        typer.Option("--uno", help="Also draw from a reference picture, with an untrained LoRA in the place of UNO's."),
    ] = False,
    mesh: Annotated[
        bool,
        typer.Option("--mesh", help="Also make a 3D model of a drawn mug, by a tiny network that has learned nothing."),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep Postgres and the S3 server running for a look around, until Ctrl-C.")
    ] = False,
) -> None:
    """Run the whole pipeline locally, with a tiny model.

    Starts an embedded Postgres and an S3 server, and goes from the INSERT of a job to the pictures of a person who
    consented. Reads no settings.
    """
    try:
        from worker.demo.config import SMALL, fits_uno, with_mesh, with_uno
        from worker.demo.run import main as run_demo
        from worker.demo.tiny_bases import TINY
        from worker.kinds import load_kinds
        from worker.pod.routes import extra_of, missing_packages
    except ModuleNotFoundError as error:
        typer.echo(f"demo: {error.name} is not installed; pip install 'likeness-worker[demo]'", err=True)
        raise typer.Exit(WRONG_SETTINGS) from error

    config = SMALL if base is None else TINY.get(base)
    if config is None:
        typer.echo(f"demo: base {base} not found; there are {', '.join(TINY)}", err=True)
        raise typer.Exit(WRONG_SETTINGS)
    if uno and not fits_uno(config):
        typer.echo(f"demo: --uno cannot be used with {base}, whose family UNO's LoRA does not fit", err=True)
        raise typer.Exit(WRONG_SETTINGS)
    if mesh and (missing := missing_packages(load_kinds()[0]["mesh"])):
        typer.echo(f"demo: --mesh needs {', '.join(missing)}: {extra_of('mesh')}", err=True)
        raise typer.Exit(WRONG_SETTINGS)
    if uno:
        config = with_uno(config)
    if mesh:
        config = with_mesh(config)
    raise typer.Exit(run_demo(output, photos, keep=keep, config=config))

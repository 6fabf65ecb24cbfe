"""`worker lora`: trained LoRAs as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="lora",
    help="Export trained LoRAs.",
    epilog="Example: worker lora export lora.safetensors --format kohya --output comfyui.safetensors",
    no_args_is_help=True,
)


@app.command(epilog="Example: worker lora export lora.safetensors --format kohya --output comfyui.safetensors")
def export(
    source: Annotated[str, typer.Argument(metavar="FILE|ID", help="A LoRA file, or an id from subjects_models.")],
    naming: Annotated[
        Literal["kohya", "diffusers"],
        typer.Option("--format", help="kohya: for ComfyUI and similar programs. diffusers: for Python."),
    ],
    output: Annotated[Path, typer.Option(help="The file to write. An existing file is not overwritten.")],
) -> None:
    """Write a LoRA with the key names that another program expects.

    With an id, reads DATABASE_URL, which must be the database owner's URL, and the S3 settings.
    """
    from worker.commands.lora_export import export

    made = export(source, naming, output)
    typer.echo(f"{made.path}: a LoRA for {made.family}, {made.layers} layers in {naming} names, SHA-256 {made.sha256}")

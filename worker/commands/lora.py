"""`worker lora`: trained LoRAs as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import typer

from worker.commands.exits import print_error

app = typer.Typer(
    name="lora",
    help="Export trained LoRAs, and import others.",
    epilog="Example: worker lora export lora.safetensors --format kohya --output comfyui.safetensors",
    no_args_is_help=True,
)


@app.command(epilog="Example: worker lora export lora.safetensors --format kohya --output comfyui.safetensors")
def export(
    source: Annotated[str, typer.Argument(metavar="FILE|ID", help="A LoRA file, or an id from subjects_models.")],
    naming: Annotated[
        Literal["kohya", "diffusers", "ComfyUI"],
        typer.Option(
            "--format",
            help="kohya: for ComfyUI and similar programs. diffusers: for Python. ComfyUI: the original code's names, "
            "where a family's own files have them.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The file to write. An existing file is not overwritten.")],
) -> None:
    """Write a LoRA with the key names that another program expects.

    With an id, reads DATABASE_URL, which must be the database owner's URL, and the S3 settings.
    """
    from worker.commands.lora_export import export

    made = export(source, naming, output)
    typer.echo(f"{made.path}: a LoRA for {made.family}, {made.layers} layers in {naming} names, SHA-256 {made.sha256}")
    _warn_of_scale(source, made.scale_is_assumed)


@app.command(
    "import",
    epilog="Example: worker lora import ada.safetensors --subject 4f0c1f6e-…-7d0b --base my-base --trigger-word ohwx",
)
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA file of any program.")],
    base: Annotated[str, typer.Option(help="The base model that it was trained on: a name from worker models list.")],
    subject: Annotated[UUID | None, typer.Option(metavar="ID", help="The person or product that it shows.")] = None,
    nobody: Annotated[
        bool, typer.Option("--nobody", help="It shows no person, such as a style. Every owner may use it.")
    ] = False,
    trigger_word: Annotated[
        str | None, typer.Option(metavar="WORD", help="The word for it in prompts. Default: the subject's own.")
    ] = None,
) -> None:
    """Add a LoRA that was made elsewhere to subjects_models.

    The file is checked, converted and uploaded. A person must consent to generation. Safe to repeat. Reads
    DATABASE_URL, which must be the database owner's URL, and the S3 settings.
    """
    from worker.commands.lora_import import import_

    made = import_(source, base, subject, nobody, trigger_word)
    typer.echo(f"{made.model_id}: a LoRA for {made.family}, rank {made.rank}, {made.state}, SHA-256 {made.sha256}")
    _warn_of_scale(source.name, made.scale_is_assumed)


def _warn_of_scale(file: str, is_assumed: bool) -> None:
    """Warn of a file of PEFT without its alpha: it may be weaker or stronger than meant."""
    if is_assumed:
        print_error(
            f"Warning: {file} states no alpha, and there is no adapter_config.json beside it: scale 1 was assumed. "
            "Where its alpha is not its rank, put that file of PEFT's beside it and convert it again."
        )

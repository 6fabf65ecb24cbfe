"""`worker models`: base models, guides and upscalers, on this disk and in the model bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="models",
    help="Download, share, list and import models.",
    epilog="Example: worker models list",
    no_args_is_help=True,
)

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The model's name, as in worker.base_models.")]


@app.command(epilog="Example: HF_TOKEN=… worker models pull OWNER/NAME --as my-base")
def pull(
    slug: Annotated[
        str, typer.Option("--as", metavar="SLUG", help="The model's name, as in worker.base_models or worker.guides.")
    ],
    repo: Annotated[
        str | None,
        typer.Argument(
            metavar="REPO",
            help="OWNER/NAME on the hub, in diffusers layout. May be left out for a model that `worker migrate` adds.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A file of a guide: FILE of REPO, OWNER/NAME:FILE of another repository, or FILE=NAME to give it "
            "another name in the folder. Repeat it for each file.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit. The default is the newest commit of the main branch.")
    ] = None,
) -> None:
    """Download a base model or a guide from a Hugging Face hub.

    Downloads one commit of each repository to MODELS_DIR, safetensors only, and verifies its checksums. An interrupted
    download continues where it stopped. Reads MODELS_DIR, and HF_TOKEN for a gated model.
    """
    from worker.commands import models_actions
    from worker.settings import Settings

    models_actions.pull(Settings.load(storage=False, database=False), repo, slug, revision, include or [])


@app.command(epilog="Example: worker models push my-base")
def push(slug: Slug) -> None:
    """Upload a model from MODELS_DIR to the model bucket, for all pods.

    Files that the bucket has are not sent again. Reads MODELS_DIR, MODELS_S3_BUCKET or BUCKET_MODELS, and the other
    settings of MODELS_S3_* or those of S3_*.
    """
    from worker.commands import models_actions
    from worker.settings import Settings

    models_actions.push(Settings.load(storage=False, database=False), slug)


@app.command("list", epilog="Example: worker models list --check")
def list_(
    check: Annotated[
        bool, typer.Option("--check", help="Verify the checksum of every file on this disk. Takes minutes.")
    ] = False,
) -> None:
    """List all models: where they are, and whether they are intact.

    With family, licence, size, and the routes that each enables. Reads MODELS_DIR, and for more columns
    DATABASE_URL and the settings of `worker models push`. Exit code 1 if a model is damaged.
    """
    from worker.commands import models_actions
    from worker.settings import Settings

    models_actions.list_(Settings.load(storage=False, database=False), thorough=check)


def _file(help: str) -> Any:
    return typer.Option(metavar="FILE", help=help, exists=True, dir_okay=False)


def _folder(help: str) -> Any:
    return typer.Option(metavar="DIR", help=help, exists=True, file_okay=False)


@app.command(
    "import",
    epilog="Example: worker models import my-base --transformer transformer.safetensors --vae ae.safetensors "
    "--clip clip_l.safetensors --t5 t5xxl_fp16.safetensors --tokenizers ./repository",
)
def import_(
    slug: Slug,
    transformer: Annotated[Path | None, _file("The denoiser's weights.")] = None,
    vae: Annotated[Path | None, _file("The autoencoder's weights. With --checkpoint, instead of its own.")] = None,
    clip: Annotated[Path | None, _file("The weights of the text encoder CLIP-L.")] = None,
    t5: Annotated[Path | None, _file("The weights of the text encoder T5-XXL.")] = None,
    qwen3: Annotated[Path | None, _file("The weights of the text encoder Qwen3-4B.")] = None,
    checkpoint: Annotated[Path | None, _file("A whole base model in one file.")] = None,
    upscaler: Annotated[Path | None, _file("Real-ESRGAN: .pth or .safetensors.")] = None,
    triposr: Annotated[
        Path | None, _file("TripoSR: model.ckpt or .safetensors, with config.yaml beside it or in --configs.")
    ] = None,
    remover: Annotated[Path | None, _file("A network that removes backgrounds: .onnx.")] = None,
    tokenizers: Annotated[
        Path | None, _folder("A folder with tokenizer/, and tokenizer_2/ if the model has two.")
    ] = None,
    configs: Annotated[Path | None, _folder("The configs of a model that differs from the published one.")] = None,
) -> None:
    """Create a model from the single files that ComfyUI uses.

    Writes it to MODELS_DIR, in diffusers layout. Needs no network. Without files, it says which files make which model.
    """
    from worker.commands import models_actions
    from worker.settings import Settings

    parts = {
        "transformer": transformer,
        "vae": vae,
        "clip": clip,
        "t5": t5,
        "qwen3": qwen3,
        "checkpoint": checkpoint,
        "upscaler": upscaler,
        "triposr": triposr,
        "remover": remover,
    }
    files = {part: file for part, file in parts.items() if file is not None}
    models_actions.import_(Settings.load(storage=False, database=False), slug, files, tokenizers, configs)

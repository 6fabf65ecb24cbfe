"""What `worker models` pull, push, list and import do, with their progress and results on the console."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from worker.console import console, table
from worker.errors import CommandRefused, StorageError, WorkerError
from worker.guard.fetch import Fetcher
from worker.models.hub.includes import Include, parse_includes
from worker.models.hub.pull import Pull
from worker.models.hub.released import RELEASED, pull_released
from worker.models.importing import import_files
from worker.models.inventory import COLUMNS, collect_inventory
from worker.models.names import NAMED_FILES, REPOSITORIES
from worker.models.push import Push, PushResult
from worker.settings import Settings
from worker.storage.errors import response_status
from worker.storage.object_store import ObjectStore

WRITE_ACCESS = (
    "pushing needs the right to list, read, write and delete in this bucket: set MODELS_S3_ACCESS_KEY_ID and "
    "MODELS_S3_SECRET_ACCESS_KEY for this command (else S3_ACCESS_KEY_ID counts)"
)


def pull(settings: Settings, repo: str | None, slug: str, revision: str | None, includes: Sequence[str]) -> None:
    """Download a model from a hub into MODELS_DIR. Raises CommandRefused."""
    if repo is None and not includes and slug in RELEASED:
        _pull_released(settings, slug)
        return
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    with _refusals(settings.models_dir):
        pulling = Pull(settings.models_dir, slug, token)
        repo, files = _wanted(repo, slug, includes)
        with pulling.lock():
            repositories = pulling.look_up_files(files, revision) if files else [pulling.look_up_base(repo, revision)]
            for repository in repositories:
                size = f"{len(repository.files)} files, {repository.size_bytes / 1e9:.2f} GB"
                typer.echo(f"{repository.name} at {repository.commit[:12]}: {size}")
                typer.echo(f"Licence: {_licence(repository.licence, repository.licence_link)}")
            with _progress(f"Downloading {slug}", sum(found.size_bytes for found in repositories)) as bar:
                pulling.run(repositories, bar.advance)
    typer.echo(f"{slug} is in {settings.models_dir}. To share it with all pods: worker models push {slug}")


def _pull_released(settings: Settings, slug: str) -> None:
    released = RELEASED[slug]
    typer.echo(f"{released.url}: {released.size_bytes / 1e9:.2f} GB")
    typer.echo(f"Licence: {released.licence}")
    with _refusals(settings.models_dir):
        pull_released(settings.models_dir, slug, Fetcher(settings.fetch_private_hosts), released)
    typer.echo(f"{slug} is in {settings.models_dir}. To share it with all pods: worker models push {slug}")


def _wanted(repo: str | None, slug: str, includes: Sequence[str]) -> tuple[str, list[Include]]:
    """Return the repository of a model, and its files if they are named one by one. Raises CommandRefused."""
    if slug in NAMED_FILES and not includes:
        files = parse_includes(NAMED_FILES[slug], None)
        if repo in (None, files[0].repo):
            return files[0].repo, files
    if repo is None and not includes and slug in REPOSITORIES:
        return REPOSITORIES[slug], []
    if repo is None:
        raise CommandRefused(
            f"{slug} needs a repository: worker models pull OWNER/NAME --as {slug}; without one, only these can be "
            f"pulled: {', '.join(sorted({**NAMED_FILES, **REPOSITORIES, **RELEASED}))}"
        )
    return repo, parse_includes(includes, repo)


def push(settings: Settings, slug: str) -> None:
    """Upload a model to the bucket. Raises CommandRefused."""
    with _refusals(settings.models_dir):
        pushed = asyncio.run(_push(settings, slug))
    already = pushed.size_bytes - pushed.sent_bytes
    typer.echo(
        f"{slug} is in the bucket {settings.base_models_bucket}: {pushed.sent_bytes / 1e9:.2f} GB sent, "
        f"{already / 1e9:.2f} GB were already there. Pods find it within half a minute."
    )


def import_(
    settings: Settings, slug: str, files: Mapping[str, Path], tokenizers: Path | None, configs: Path | None
) -> None:
    """Create a model in MODELS_DIR from single files. Raises CommandRefused."""
    with _refusals(settings.models_dir):
        manifest = import_files(settings.models_dir, slug, files, tokenizers, configs)
    typer.echo(f"{slug} is in {settings.models_dir}: {len(manifest.files)} files, {manifest.size_bytes / 1e9:.2f} GB.")
    typer.echo(
        f"Single files do not name their licence: look it up. To share it with all pods: worker models push {slug}"
    )


def list_(settings: Settings, *, thorough: bool) -> None:
    """Print the table. Raises CommandRefused at the end if a model is damaged."""
    shown = console()
    with _refusals(settings.models_dir):
        inventory = collect_inventory(settings, thorough=thorough)
    table(shown, f"Models in {settings.models_dir} and {settings.base_models_bucket}", COLUMNS, inventory.rows, "none")
    for note in inventory.notes:
        shown.print(note)
    if inventory.damaged:
        raise CommandRefused(
            f"damaged: {', '.join(inventory.damaged)}; on this disk, a pod downloads it again when it is next used; "
            "in the bucket, `worker models push` replaces it"
        )


async def _push(settings: Settings, slug: str) -> PushResult:
    store = ObjectStore(settings.models_store_config)
    pushing = Push(settings.models_dir, slug, store, settings.base_models_bucket)
    try:
        typer.echo(f"Checking {slug} …")
        manifest = await pushing.check()
        with _progress(f"Uploading {slug}", manifest.size_bytes) as bar:
            return await pushing.run(manifest, bar.advance)
    except StorageError as error:
        if response_status(error) == 403:
            raise CommandRefused(f"{error.message}; {WRITE_ACCESS}") from error
        raise CommandRefused(f"{error.message}; run the command again: it continues where it stopped") from error
    finally:
        await store.close()


class Bar:
    """A progress bar of bytes, on standard error."""

    def __init__(self, progress: Progress, title: str, size_bytes: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=size_bytes)

    def advance(self, size_bytes: int) -> None:
        self._progress.advance(self._task, size_bytes)


@contextmanager
def _progress(title: str, size_bytes: int) -> Iterator[Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        yield Bar(progress, title, size_bytes)


@contextmanager
def _refusals(models_dir: Path) -> Iterator[None]:
    """Raise CommandRefused for errors that end a job elsewhere, and for those of the disk."""
    try:
        yield
    except WorkerError as error:
        raise CommandRefused(error.message) from error
    except OSError as error:
        not_ours = isinstance(error, PermissionError | NotADirectoryError | FileExistsError)
        hint = "; set MODELS_DIR to a folder of your own" if not_ours else ""
        raise CommandRefused(f"{error.filename or models_dir}: {error.strerror}{hint}") from error


def _licence(name: str | None, link: str | None) -> str:
    if name is None:
        return "the repository names none; look it up before you use the model"
    return f"{name} ({link})" if link else name

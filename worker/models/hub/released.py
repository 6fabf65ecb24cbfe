"""Download a network that a project publishes as a file of a release, whose size and checksum are known here."""

from __future__ import annotations

import asyncio
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from worker.errors import CommandRefused, WorkerError
from worker.guard.fetch import Fetcher, Limits
from worker.models.manifest import Manifest, Origin, build_manifest
from worker.models.names import REMOVERS, slug_path
from worker.models.partial_folder import install, locked_empty_partial
from worker.storage.checksums import sha256_of

SECONDS = 1800.0
"""For the whole file."""


@dataclass(frozen=True)
class Released:
    """A published file."""

    url: str
    size_bytes: int
    sha256: str
    licence: str
    commercial_use: bool


RELEASED = {
    slug: Released(**entry)
    for slug, entry in tomllib.loads((Path(__file__).parent.parent / "removers.toml").read_text("utf-8")).items()
}
"""By slug."""


def pull_released(models_dir: Path, slug: str, fetcher: Fetcher, released: Released) -> Manifest:
    """Download, verify and install a network. Raises CommandRefused."""
    with locked_empty_partial(models_dir, slug, "delete it first") as partial:
        file = partial / REMOVERS[slug]
        _download(released, file, fetcher)
        manifest = build_manifest(partial, Origin(source=_source(released), licence=released.licence))
        install(partial, slug_path(models_dir, slug), manifest)
    return manifest


def _download(released: Released, file: Path, fetcher: Fetcher) -> None:
    limits = Limits(max_bytes=released.size_bytes, seconds=SECONDS)
    try:
        asyncio.run(fetcher.fetch(released.url, file, limits, lambda _: None))
    except WorkerError as error:
        raise CommandRefused(f"{file.name} was not downloaded: {error.message}; or import it from a file") from error
    if sha256_of(file) != released.sha256:
        raise CommandRefused(f"what {released.url} sends is not the file that is known: nothing was installed")


def _source(released: Released) -> str:
    """Return where a file is from, such as github.com/OWNER/NAME."""
    parts = urlsplit(released.url)
    return f"{parts.hostname}{'/'.join(parts.path.split('/')[:3])}"

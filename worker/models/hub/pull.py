"""Download a model from a Hugging Face hub to this machine's disk: a base model, or the files of a guide. Commands do
this, never jobs.

The revision is resolved to a commit first, so all files have one version, which the manifest names. Every file is
compared with the hub's checksum. An interrupted pull continues where it stopped, even within a file; the library's own
download would restart the file, so this module downloads the files one by one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.console import sanitize_line
from worker.errors import CommandRefused
from worker.models.converting import convert
from worker.models.hub.errors import translate_hub_errors
from worker.models.hub.files import INDEX, select_files
from worker.models.hub.includes import Include, check_present
from worker.models.manifest import Manifest, Origin, build_manifest
from worker.models.names import UPSCALERS, partial_path, slug_path
from worker.models.partial_folder import install, lock_new_model
from worker.storage.checksums import sha256_of
from worker.storage.folder_size import folder_size
from worker.storage.object_store import check_key

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

PART_SUFFIX = ".part"
"""Of a file that is not complete yet."""
PICKLE_SUFFIX = ".pickle"
"""Of a file that is still to be converted."""


@dataclass(frozen=True)
class Repository:
    """One commit of a repository, and those of its files that make the model, by their names in its folder."""

    name: str
    commit: str
    licence: str | None
    licence_link: str | None
    files: dict[str, RepoSibling]

    @property
    def size_bytes(self) -> int:
        return sum(file.size or 0 for file in self.files.values())


class Pull:
    """The download of one model to `models_dir/slug`."""

    def __init__(self, models_dir: Path, slug: str, token: str | None) -> None:
        self._models_dir = models_dir
        self._slug = slug
        self._path = slug_path(models_dir, slug)
        self._partial = partial_path(models_dir, slug)
        self._token = token

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude other processes that install the model. Raises CommandRefused if it exists already."""
        if self._slug in UPSCALERS.values():
            raise CommandRefused(
                f"{self._slug} is an upscaler, and hubs do not have upscalers in this layout: download its official "
                f"weights and run `worker models import {self._slug} --upscaler FILE`"
            )
        with lock_new_model(self._models_dir, self._slug, "delete it, or choose another name with --as"):
            yield

    def look_up_base(self, repo: str, revision: str | None) -> Repository:
        """Ask the hub for a base model's repository and select its files. Raises CommandRefused."""
        with translate_hub_errors(repo, revision, self._models_dir):
            found = self._ask(repo, revision)
            if INDEX not in found.files:
                raise CommandRefused(
                    f"{repo} is not in diffusers layout: {INDEX} not found. For single files (ComfyUI, Civitai), use "
                    "`worker models import`; for a guide, name its files with --include"
                )
            index = self._fetch_verified(INDEX, found, lambda _: None).read_bytes()
            names = select_files(found.files, index, repo)
            return replace(found, files={name: found.files[name] for name in names})

    def look_up_files(self, includes: Iterable[Include], revision: str | None) -> list[Repository]:
        """Ask the hub for the repositories of these files; `revision` is of the first one. Raises CommandRefused."""
        by_repo: dict[str, list[Include]] = {}
        for include in includes:
            by_repo.setdefault(include.repo, []).append(include)
        repositories: list[Repository] = []
        for repo, wanted in by_repo.items():
            named = None if repositories else revision
            with translate_hub_errors(repo, named, self._models_dir):
                found = self._ask(repo, named)
            check_present(wanted, found.files)
            files = {_arriving_name(include): found.files[include.file] for include in wanted}
            repositories.append(replace(found, files=files))
        return repositories

    def _ask(self, repo: str, revision: str | None) -> Repository:
        """Return a repository with all of its files."""
        found: ModelInfo = self._api().model_info(repo, revision=revision, files_metadata=True)
        card: dict[str, Any] = vars(found.card_data) if found.card_data else {}
        return Repository(
            name=repo,
            commit=str(found.sha),
            licence=_text_or_none(card.get("license_name") or card.get("license")),
            licence_link=_text_or_none(card.get("license_link")),
            files={file.rfilename: file for file in found.siblings or []},
        )

    def run(self, repositories: Sequence[Repository], on_bytes: Callable[[int], None]) -> Manifest:
        """Download missing files, verify them, and install the model. Raises CommandRefused.

        `on_bytes` is called with the number of bytes that are now on the disk, whether downloaded or present before.
        """
        free = shutil.disk_usage(self._models_dir).free
        size_bytes = sum(repository.size_bytes for repository in repositories)
        if size_bytes > free + folder_size(self._partial):
            raise CommandRefused(
                f"{self._slug} needs {size_bytes / 1e9:.1f} GB, and {self._models_dir} has "
                f"{free / 1e9:.1f} GB free: free some space, or set MODELS_DIR to a larger disk"
            )
        for repository in repositories:
            with translate_hub_errors(repository.name, repository.commit, self._models_dir):
                for name in repository.files:
                    self._fetch_verified(name, repository, on_bytes)
        names = [self._converted(name) for repository in repositories for name in repository.files]
        on_disk = build_manifest(self._partial, _origin(repositories))
        manifest = on_disk.model_copy(update={"files": {name: on_disk.files[name] for name in names}})
        install(self._partial, self._path, manifest)
        return manifest

    def _converted(self, name: str) -> str:
        """Return the name of a file in the model, which a pickle gets when it is converted. Raises CommandRefused."""
        if not name.endswith(PICKLE_SUFFIX):
            return name
        pickle, converted = self._partial / name, name.removesuffix(PICKLE_SUFFIX)
        convert({"network": "pickle", "files": {"pickle": str(pickle)}, "target": str(self._partial / converted)})
        pickle.unlink()
        return converted

    def _fetch_verified(self, name: str, repository: Repository, on_bytes: Callable[[int], None]) -> Path:
        file = repository.files[name]
        path = self._partial / check_key(name)
        if path.is_file() and _matches_hub(path, file):
            on_bytes(path.stat().st_size)
            return path
        for _ in range(2):  # twice, because the network may have damaged the first download
            self._download(path, file, repository, on_bytes)
            if _matches_hub(path, file):
                return path
            path.unlink()
        raise CommandRefused(
            f"{file.rfilename} of {repository.name} does not match the hub's checksum after two downloads: try again "
            "later"
        )

    def _download(self, path: Path, file: RepoSibling, repository: Repository, on_bytes: Callable[[int], None]) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        part = path.with_name(f"{path.name}.{repository.commit[:12]}{PART_SUFFIX}")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as content:
            http_get(
                hf_hub_url(repository.name, file.rfilename, revision=repository.commit, endpoint=self._api().endpoint),
                content,
                resume_size=content.tell(),
                headers=build_hf_headers(token=self._token),
                expected_size=file.size,
                tqdm_class=_progress_class(on_bytes),
            )
        part.rename(path)

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its warnings contain signed URLs
        return HfApi(token=self._token)


def _arriving_name(include: Include) -> str:
    return f"{include.name}{PICKLE_SUFFIX}" if include.is_converted else include.name


def _origin(repositories: Sequence[Repository]) -> Origin:
    first, *others = [
        Origin(source=repository.name, revision=repository.commit, licence=repository.licence)
        for repository in repositories
    ]
    return first.model_copy(update={"others": others})


def _text_or_none(value: object) -> str | None:
    """Return a value of a model card as text: its author may have written anything there, such as a list."""
    return None if value is None else sanitize_line(value)


def _progress_class(on_bytes: Callable[[int], None]) -> type:
    """Return a subclass of the hub's progress bar that prints nothing and calls `on_bytes`."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            on_bytes(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            on_bytes(int(n or 0))

    return Bar


def _matches_hub(path: Path, file: RepoSibling) -> bool:
    """Compare a file with the hub's checksum: the SHA-256 of a large file, git's SHA-1 of a small one."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if file.lfs is not None:
        return sha256_of(path) == file.lfs.sha256
    if file.blob_id is not None:
        blob = b"blob %d\0" % size + path.read_bytes()
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.blob_id
    return True

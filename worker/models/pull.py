"""From a Hugging Face hub to this machine's disk: a bootstrap, never part of a job.

The revision is resolved to a commit first, so all files are of one version, and the manifest says which. What arrives
is compared with the hub's checksums. An interrupted pull goes on where it stopped, in the middle of a file too: for
that the files are fetched one by one, because the library's own download begins a file anew in each process.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.console import sanitize_line
from worker.errors import CommandRefused
from worker.models.bases import finish
from worker.models.hub_files import INDEX, wanted_files
from worker.models.locks import exclusive, fetch_lock_file
from worker.models.manifest import Manifest, Origin, describe
from worker.models.names import UPSCALERS, arriving_path, slug_path
from worker.storage.object_store import check_key

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

PART = ".part"
"""Behind the name of a file that is not whole yet."""


@dataclass(frozen=True)
class Repository:
    """One commit of a repository, and what of it makes the base."""

    name: str
    commit: str
    licence: str | None
    licence_link: str | None
    files: dict[str, RepoSibling]

    @property
    def size_bytes(self) -> int:
        return sum(file.size or 0 for file in self.files.values())


class Pull:
    """One repository on its way to `models_dir/slug`."""

    def __init__(self, models_dir: Path, slug: str, repo: str, revision: str | None, token: str | None) -> None:
        self._models_dir = models_dir
        self._slug = slug
        self._path = slug_path(models_dir, slug)
        self._repo = repo
        self._revision = revision
        self._token = token

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse to overwrite a model, or to work beside another process that brings it."""
        if self._slug in UPSCALERS.values():
            raise CommandRefused(
                f"{self._slug} is an upscaler, which no repository holds in this layout: download its official "
                f"weights and run `worker models import {self._slug} --upscaler FILE`"
            )
        if self._path.exists():
            raise CommandRefused(f"{self._path} exists: remove it, or take another name with --as")
        with exclusive(fetch_lock_file(self._models_dir, self._slug)) as alone:
            if not alone:
                raise CommandRefused(f"another process is fetch_lock {self._slug} just now")
            yield

    def look_up(self) -> Repository:
        """What the hub has. Raises CommandRefused."""
        with self._translate_hub_errors():
            api = self._api()
            found: ModelInfo = api.model_info(self._repo, revision=self._revision, files_metadata=True)
            siblings = {file.rfilename: file for file in found.siblings or []}
            commit = str(found.sha)
            if INDEX not in siblings:
                raise CommandRefused(
                    f"{self._repo} is not in diffusers layout: it has no {INDEX}. Single files (ComfyUI, Civitai) are "
                    "brought by `worker models import`"
                )
            index = self._fetch_verified(api, INDEX, siblings[INDEX], commit, lambda _: None).read_bytes()
            card: dict[str, Any] = vars(found.card_data) if found.card_data else {}
            names = wanted_files(siblings, index, self._repo)
            return Repository(
                name=self._repo,
                commit=commit,
                licence=_text_or_none(card.get("license_name") or card.get("license")),
                licence_link=_text_or_none(card.get("license_link")),
                files={name: siblings[name] for name in names},
            )

    def run(self, repository: Repository, on_bytes: Callable[[int], None]) -> Manifest:
        """Download what is not here yet, check it, and give the folder its name."""
        free = shutil.disk_usage(self._models_dir).free
        if repository.size_bytes > free + _size_of(self._arriving):
            raise CommandRefused(
                f"{self._repo} needs {repository.size_bytes / 1e9:.1f} GB, and {self._models_dir} has "
                f"{free / 1e9:.1f} GB free"
            )
        with self._translate_hub_errors():
            api = self._api()
            for name, file in repository.files.items():
                self._fetch_verified(api, name, file, repository.commit, on_bytes)
        origin = Origin(source=repository.name, revision=repository.commit, licence=repository.licence)
        described = describe(self._arriving, origin)
        manifest = described.model_copy(update={"files": {name: described.files[name] for name in repository.files}})
        finish(self._arriving, self._path, manifest)
        return manifest

    def _fetch_verified(
        self, api: HfApi, name: str, file: RepoSibling, commit: str, on_bytes: Callable[[int], None]
    ) -> Path:
        path = self._arriving / check_key(name)
        if path.is_file() and _is_as_on_hub(path, file):
            on_bytes(path.stat().st_size)
            return path
        for _ in range(2):  # once more, because the first time it may have been damaged on the way
            self._download(api, name, path, file, commit, on_bytes)
            if _is_as_on_hub(path, file):
                return path
            path.unlink()
        raise CommandRefused(f"{name} of {self._repo} does not arrive as the hub describes it; try again later")

    def _download(
        self, api: HfApi, name: str, path: Path, file: RepoSibling, commit: str, on_bytes: Callable[[int], None]
    ) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        part = path.with_name(f"{path.name}.{commit[:12]}{PART}")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as content:
            http_get(
                hf_hub_url(self._repo, name, revision=commit, endpoint=api.endpoint),
                content,
                resume_size=content.tell(),
                headers=build_hf_headers(token=self._token),
                expected_size=file.size,
                tqdm_class=_progress(on_bytes),
            )
        part.rename(path)

    @property
    def _arriving(self) -> Path:
        return arriving_path(self._models_dir, self._slug)

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its warnings hold addresses that are signed
        return HfApi(token=self._token)

    @contextmanager
    def _translate_hub_errors(self) -> Iterator[None]:
        """The hub's failures in our words: its own hold addresses, and those may be signed."""
        from huggingface_hub import errors

        page = f"https://huggingface.co/{self._repo}"
        try:
            yield
        except errors.GatedRepoError as error:
            status = error.response.status_code
            if status == 401:
                how = f"accept its terms on {page}, make a token (Settings, Access Tokens, read) and set HF_TOKEN"
            else:
                how = f"the account of HF_TOKEN has no access yet: accept the terms on {page} and wait for approval"
            raise CommandRefused(f"{self._repo} is gated: {how}") from None
        except errors.RepositoryNotFoundError:
            raise CommandRefused(
                f"there is no repository {self._repo}, or it is private: check the name (OWNER/NAME); for a private "
                "one set HF_TOKEN"
            ) from None
        except errors.RevisionNotFoundError:
            raise CommandRefused(
                f"{self._repo} has no revision {self._revision}: name a branch, a tag or a commit"
            ) from None
        except errors.HFValidationError:
            raise CommandRefused(f"{self._repo!r} is no repository's name, which looks like OWNER/NAME") from None
        except errors.OfflineModeIsEnabled:
            raise CommandRefused("HF_HUB_OFFLINE is set: unset it for this command, which needs the hub") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            hint = ": HF_TOKEN is refused, make a new one" if status in (401, 403) else "; try again later"
            raise CommandRefused(f"the hub answered {status} for {self._repo}{hint}") from None
        except (
            errors.LocalEntryNotFoundError,
            errors.HTTPError,  # type: ignore[attr-defined]  # httpx's, whose name changes with the hub's releases
        ) as error:
            raise CommandRefused(
                f"the hub cannot be reached ({type(error).__name__}): check the network, or HF_ENDPOINT for a mirror; "
                "what has arrived is kept"
            ) from None
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise CommandRefused(f"{self._models_dir} cannot be written: {why}; what has arrived is kept") from None


def _text_or_none(value: object) -> str | None:
    """What a card says, as text: its author wrote whatever they liked there, a list perhaps."""
    return None if value is None else sanitize_line(value)


def _progress(on_bytes: Callable[[int], None]) -> type:
    """A bar as the hub's library wants one, that shows nothing and passes its numbers on."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            on_bytes(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            on_bytes(int(n or 0))

    return Bar


def _is_as_on_hub(path: Path, file: RepoSibling) -> bool:
    """Large files have a SHA-256 there, small ones the SHA-1 that git names them by."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if file.lfs is not None:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
    if file.blob_id is not None:
        blob = b"blob %d\0" % size + path.read_bytes()
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.blob_id
    return True


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

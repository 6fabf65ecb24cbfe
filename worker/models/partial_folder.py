"""The hidden folder in which a model is made, and the step that installs it under its own name.

What has no lock in its name is for a caller that holds the model's fetch lock.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import CommandRefused
from worker.models.locks import fetch_lock_path, try_file_lock
from worker.models.manifest import MANIFEST, Manifest, write_manifest
from worker.models.names import model_missing, partial_path, slug_path

EXPECTED_SIZE_FILE = ".coming"
"""In a partial folder: the size in bytes that it will have, so that other processes leave space for it."""


@contextmanager
def lock_new_model(models_dir: Path, slug: str, advice: str) -> Iterator[None]:
    """Exclude other processes that install a model. Raises CommandRefused, with this advice if it exists already."""
    path = slug_path(models_dir, slug)
    if path.exists():
        raise CommandRefused(f"{path} exists: {advice}")
    with try_file_lock(fetch_lock_path(models_dir, slug)) as acquired:
        if not acquired:
            raise CommandRefused(f"another process is installing {slug}: wait until it has finished")
        yield


@contextmanager
def locked_empty_partial(models_dir: Path, slug: str, advice: str) -> Iterator[Path]:
    """Lock a new model as `lock_new_model` does, and yield an empty partial folder; what is left of it is deleted."""
    with lock_new_model(models_dir, slug, advice):
        partial = partial_path(models_dir, slug)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def prepare_partial(slug: str, path: Path, partial: Path, manifest: Manifest) -> None:
    """Create the partial folder, from the damaged folder at `path` if there is one: its intact files are kept.

    Processes that still read the damaged folder keep their open files. Raises ModelMissing if an operator must fix it.
    """
    if path.exists():
        if not (path / MANIFEST).exists():
            raise model_missing(slug, "is incomplete in MODELS_DIR, added by hand: complete or delete its folder")
        if path.is_symlink():
            raise model_missing(
                slug,
                "is damaged, and its folder in MODELS_DIR is a symbolic link: repair its target, or delete the link",
            )
        shutil.rmtree(partial, ignore_errors=True)
        path.rename(partial)
    partial.mkdir(parents=True, exist_ok=True)
    for link in [found for found in partial.rglob("*") if found.is_symlink()]:
        link.unlink()  # a download would write through it, perhaps into another model
    _delete_unlisted_files(partial, manifest)


def install(partial: Path, path: Path, manifest: Manifest) -> None:
    """Rename a complete partial folder to `path`, with its manifest and without files that are not in it."""
    _delete_unlisted_files(partial, manifest)
    (partial / EXPECTED_SIZE_FILE).unlink(missing_ok=True)
    write_manifest(partial, manifest)
    partial.rename(path)


def _delete_unlisted_files(partial: Path, manifest: Manifest) -> None:
    """Delete temporary files of a killed process, and files of an earlier push."""
    for file in [found for found in partial.rglob("*") if found.is_file()]:
        name = file.relative_to(partial).as_posix()
        if name not in manifest.files and name != EXPECTED_SIZE_FILE:
            file.unlink()

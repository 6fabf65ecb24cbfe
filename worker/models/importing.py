"""Import a model from single files to MODELS_DIR. A separate process, `worker.ml.single_files`, reads the weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from worker.errors import CommandRefused
from worker.models.locks import fetch_lock_path, try_file_lock
from worker.models.manifest import Manifest, Origin, build_manifest
from worker.models.names import UPSCALER_FILE, UPSCALERS, partial_path, slug_path
from worker.models.partial_folder import install
from worker.models.single_files import SINGLE_FILES

SCALES = {slug: scale for scale, slug in UPSCALERS.items()}
EXIT_REFUSED = 3
"""The process's exit code for a file that cannot be imported."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def import_files(
    models_dir: Path, slug: str, files: Mapping[str, Path], tokenizers: Path | None, configs: Path | None
) -> Manifest:
    """Create the model `slug` from these files. Raises CommandRefused, and then MODELS_DIR is unchanged."""
    path = slug_path(models_dir, slug)
    families = _check_options(slug, files, tokenizers)
    if path.exists():
        raise CommandRefused(f"{path} exists: delete it, or choose another name")
    with try_file_lock(fetch_lock_path(models_dir, slug)) as acquired:
        if not acquired:
            raise CommandRefused(f"another process is installing {slug}: wait until it has finished")
        partial = partial_path(models_dir, slug)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _convert(
                {
                    "target": str(partial),
                    "families": {family: SINGLE_FILES[family].tokenizers for family in families},
                    "files": {name: str(file) for name, file in files.items()},
                    "tokenizers": str(tokenizers),
                    "configs": str(configs) if configs else None,
                    "scale": SCALES.get(slug),
                    "upscaler_file": UPSCALER_FILE,
                }
            )
            manifest = build_manifest(partial, Origin(source=", ".join(file.name for file in files.values())))
            install(partial, path, manifest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _check_options(slug: str, files: Mapping[str, Path], tokenizers: Path | None) -> list[str]:
    """Return the families that are made of such files, none for an upscaler. Raises CommandRefused for no model's."""
    given = files.keys()
    if slug in SCALES or "upscaler" in given:
        if slug not in SCALES or given != {"upscaler"}:
            raise CommandRefused(f"an upscaler is one file, named {' or '.join(SCALES)}: use only --upscaler FILE")
        return []
    families = [family for family, made_of in SINGLE_FILES.items() if made_of.fit(given)]
    if not families:
        raise CommandRefused(f"the files do not make a base model: {'; '.join(map(str, SINGLE_FILES.values()))}")
    if tokenizers is None:
        of_each = (" and ".join(f"{name}/" for name in SINGLE_FILES[family].tokenizers) for family in families)
        folders = ", or ".join(dict.fromkeys(of_each))
        raise CommandRefused(
            "--tokenizers DIR is missing: weights do not contain the tokenizer. DIR is a folder with "
            f"{folders}, as in the model's repository in diffusers layout"
        )
    return families


def _convert(request: dict[str, object]) -> None:
    process = subprocess.run(
        [sys.executable, "-P", "-m", "worker.ml.single_files"],
        input=json.dumps(request),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **OFFLINE},
    )
    if process.returncode == EXIT_REFUSED:
        raise CommandRefused(process.stderr.strip().splitlines()[-1])
    if process.returncode < 0:
        raise CommandRefused(f"the import was ended by signal {-process.returncode}; 9 often means too little memory")
    if process.returncode != 0:
        said = (process.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise CommandRefused(f"the import failed, which is a bug of the worker or of a library: {said[:500]}")

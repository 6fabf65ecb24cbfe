"""From single files to MODELS_DIR. What touches weights is a process of its own (`worker.ml.single_files`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from worker.errors import CommandRefused
from worker.models.bases import finish
from worker.models.locks import exclusive, fetch_lock_file
from worker.models.manifest import Manifest, Origin, describe
from worker.models.names import UPSCALER_FILE, UPSCALERS, arriving_path, slug_path

FLUX_FILES = ("transformer", "vae", "clip", "t5")
REFUSED = 3
"""The process's exit code for a file that is not what it should be."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def import_files(
    models_dir: Path, slug: str, files: Mapping[str, Path], tokenizers: Path | None, configs: Path | None
) -> Manifest:
    """Make the model `slug` of these files. Raises CommandRefused, and then MODELS_DIR is as it was."""
    path = slug_path(models_dir, slug)
    scales = {name: scale for scale, name in UPSCALERS.items()}
    _check_request(slug, files, tokenizers, scales)
    if path.exists():
        raise CommandRefused(f"{path} exists: remove it, or take another name")
    with exclusive(fetch_lock_file(models_dir, slug)) as alone:
        if not alone:
            raise CommandRefused(f"another process is fetch_lock {slug} just now")
        arriving = arriving_path(models_dir, slug)
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir(parents=True)
        try:
            _convert(
                {
                    "target": str(arriving),
                    "files": {name: str(file) for name, file in files.items()},
                    "tokenizers": str(tokenizers),
                    "configs": str(configs) if configs else None,
                    "scale": scales.get(slug),
                    "upscaler_file": UPSCALER_FILE,
                }
            )
            origin = Origin(source=", ".join(file.name for file in files.values()))
            manifest = describe(arriving, origin)
            finish(arriving, path, manifest)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
    return manifest


def _check_request(slug: str, files: Mapping[str, Path], tokenizers: Path | None, scales: Mapping[str, int]) -> None:
    given = set(files)
    if slug in scales or "upscaler" in given:
        if slug not in scales or given != {"upscaler"}:
            raise CommandRefused(f"an upscaler is one file, as {' or '.join(scales)}: --upscaler FILE alone")
        return
    if not (given == set(FLUX_FILES) or given in ({"checkpoint"}, {"checkpoint", "vae"})):
        raise CommandRefused(
            "FLUX is made of --transformer, --vae, --clip and --t5; Stable Diffusion 1.5 of --checkpoint, "
            "with a --vae of its own if you like"
        )
    if tokenizers is None:
        raise CommandRefused(
            "--tokenizers DIR is missing: weights hold no tokenizer. DIR is a folder with tokenizer/ (FLUX: and "
            "tokenizer_2/), as in the model's repository in diffusers layout"
        )


def _convert(request: dict[str, object]) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "worker.ml.single_files"],
        input=json.dumps(request),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **OFFLINE},
    )
    if ended.returncode == REFUSED:
        raise CommandRefused(ended.stderr.strip().splitlines()[-1])
    if ended.returncode != 0:
        raise CommandRefused(f"the import ended with exit code {ended.returncode}:\n{ended.stderr[-2000:]}")

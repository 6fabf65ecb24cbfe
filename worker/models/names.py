"""What models are called, and where they lie."""

from __future__ import annotations

import re
from pathlib import Path

from worker.errors import InvalidInput

PREFIX = "models/base/"
"""Of every model in the bucket."""
UPSCALERS = {2: "real-esrgan-x2", 4: "real-esrgan-x4"}
UPSCALER_FILE = "model.safetensors"
ARRIVING = ".arriving-"
REPOSITORIES = {
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Where a hub has the bases that the migrations register."""


def install_command(slug: str) -> str:
    """The command that brings a model to MODELS_DIR."""
    if slug in UPSCALERS.values():
        return f"worker models import {slug} --upscaler FILE"
    if slug in REPOSITORIES:
        return f"worker models pull {REPOSITORIES[slug]} --as {slug}"
    return f"worker models import {slug} with its files, or from a hub worker models pull OWNER/NAME --as {slug}"


def slug_path(models_dir: Path, slug: str) -> Path:
    """The folder of a model, there or not. Raises InvalidInput for a name that could lead elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", slug):
        raise InvalidInput(f"{slug!r} cannot be the name of a base model")
    return models_dir / slug


def arriving_path(models_dir: Path, slug: str) -> Path:
    """Where a model lies until it is whole: hidden, so that nobody takes it for one."""
    return models_dir / f"{ARRIVING}{slug}"

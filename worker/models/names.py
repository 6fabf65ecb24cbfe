"""Slugs and paths of models, and the command that installs one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from worker.errors import InvalidInput, ModelMissing

BUCKET_PREFIX = "models/base/"
"""The prefix of all models in the bucket."""
UPSCALERS = {2: "real-esrgan-x2", 4: "real-esrgan-x4"}
"""Slug by scale."""
UPSCALER_FILE = "model.safetensors"
REMOVERS = {"rembg-isnet-general-use": "isnet-general-use.onnx", "rembg-u2net": "u2net.onnx"}
"""Networks that remove the background of a picture, the best first, with their files as they were published."""
PARTIAL_PREFIX = ".arriving-"
"""Of folders that are not complete. Names on the disk must not change: pods of two releases may share a volume."""
_PUBLISHED: dict[str, str | list[str]] = tomllib.loads((Path(__file__).parent / "published.toml").read_text("utf-8"))
REPOSITORIES = {slug: repo for slug, repo in _PUBLISHED.items() if isinstance(repo, str)}
"""The hub's repository of each base model that the migrations register, in diffusers layout."""
GUIDES: dict[str, list[str]] = tomllib.loads((Path(__file__).parent / "guides.toml").read_text("utf-8"))
NAMED_FILES = GUIDES | {slug: files for slug, files in _PUBLISHED.items() if isinstance(files, list)}
"""The files of each guide, and of each base model in another layout, as `hub/includes.py` reads them."""


def install_command(slug: str) -> str:
    """Return the command that installs a model in MODELS_DIR."""
    if slug in UPSCALERS.values():
        return f"worker models import {slug} --upscaler FILE"
    if slug in REPOSITORIES:
        return f"worker models pull {REPOSITORIES[slug]} --as {slug}"
    if slug in NAMED_FILES or slug in REMOVERS:
        return f"worker models pull --as {slug}"
    return f"worker models pull OWNER/NAME --as {slug} (from a hub) or worker models import {slug} (from files)"


def model_missing(slug: str, problem: str) -> ModelMissing:
    """Return the error for a model that this pod cannot provide. `problem` continues a sentence about the model."""
    kind = "upscaler" if slug in UPSCALERS.values() else "guide" if slug in GUIDES else "base model"
    return ModelMissing(
        f"{kind} {slug} {problem}; install it: {install_command(slug)}; "
        f"share it with all pods: worker models push {slug}"
    )


def slug_path(models_dir: Path, slug: str) -> Path:
    """Return the folder of a model, which need not exist. Raises InvalidInput for an invalid slug."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", slug):
        raise InvalidInput(
            f"{slug!r} is not a valid model name: use up to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return models_dir / slug


def partial_path(models_dir: Path, slug: str) -> Path:
    """Return the hidden folder of a model that is not complete yet."""
    return models_dir / f"{PARTIAL_PREFIX}{slug}"

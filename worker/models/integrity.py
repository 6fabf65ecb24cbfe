"""Check that a model's folder is complete and undamaged."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from worker.models.manifest import MANIFEST, damaged_files, has_size, read_manifest
from worker.models.names import UPSCALER_FILE

_SIGNS = (
    *("model_index.json", UPSCALER_FILE),
    *("image_encoder/config.json", "diffusion_pytorch_model.safetensors", "dit_lora.safetensors"),
)
"""Files by which a folder is known as a model: a base model, an upscaler; an IP-Adapter, a ControlNet, UNO's LoRA."""


def is_complete(folder: Path) -> bool:
    """Return True if every file in the manifest exists with its size.

    A folder that was added by hand has no manifest; it is complete if it contains one of `_SIGNS`.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        has_model = any((folder / name).is_file() for name in _SIGNS)
        return has_model and not (folder / MANIFEST).exists()
    return all(has_size(folder / name, file) for name, file in manifest.files.items())


def is_undamaged(folder: Path, *, thorough: bool) -> bool:
    """Return True if the folder is complete and its files match their checksums.

    If `thorough`, every file is read. Otherwise only files that are newer than the manifest, which was written after
    all were verified: reading 30 GB for every job would take longer than the job.
    """
    if not is_complete(folder):
        return False
    manifest = read_manifest(folder)
    if manifest is None:
        return True
    verified_ns = (folder / MANIFEST).stat().st_mtime_ns
    unverified = {
        name: file
        for name, file in manifest.files.items()
        if thorough or (folder / name).stat().st_mtime_ns >= verified_ns
    }
    if damaged_files(folder, unverified):
        return False
    if unverified:
        with suppress(OSError):  # on a read-only volume the same files are read again next time
            os.utime(folder / MANIFEST)
    return True

"""Base models from single files, by family. Which files make which model: `worker/models/single_files.toml`.

flux1_names.py   Black Forest Labs' tensor names to diffusers'
ldm.py           what checkpoints of the original latent diffusion code share
*.json           the configurations of the published models, which weights alone do not contain
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from worker.ml.families.single_files import flux1, kinds, klein, qwen_image, sd15, sdxl, z_image
from worker.ml.single_files.parts import read_names

Importer = Callable[[Path, Mapping[str, Path], Path | None, Callable[[str], None]], None]
"""Writes a base to a folder from files by their options, with configurations of another folder or the published ones.

It says in lines for a person what it does. Raises ModelUnreadable, naming the file.
"""

IMPORTERS: dict[str, Importer] = {
    "flux": flux1.import_files,
    "klein": klein.import_files,
    "qwen-image": qwen_image.import_files,
    "sd15": sd15.import_files,
    "sdxl": sdxl.import_files,
    "z-image": z_image.import_files,
}
KINDS = {
    "flux": kinds.FLUX,
    "klein": kinds.FLUX2,
    "qwen-image": kinds.QWEN_IMAGE,
    "sd15": kinds.LDM,
    "sdxl": kinds.SDXL,
    "z-image": kinds.Z_IMAGE,
}
"""What the file with the denoiser is, by family."""


def family_of(files: Mapping[str, Path], families: Sequence[str]) -> str:
    """Return which of these families, all of which are made of such files, this model is of.

    The first of them if it is of none: its import says what the file is. Raises ModelUnreadable, naming the file.
    """
    if len(families) == 1:
        return families[0]
    kind = kinds.kind_of(read_names(files.get("transformer") or files["checkpoint"]))
    return next((family for family in families if KINDS[family] == kind), families[0])

"""Base models from single files, by family. Which files make which model: `worker/models/single_files.toml`.

flux1_names.py   Black Forest Labs' tensor names to diffusers'
ldm.py           what checkpoints of the original latent diffusion code share
*.json           the configurations of the published models, which weights alone do not contain
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from worker.ml.families.single_files import flux1, klein, sd15, sdxl, z_image

Importer = Callable[[Path, Mapping[str, Path], Path | None, Callable[[str], None]], None]
"""Writes a base to a folder from files by their options, with configurations of another folder or the published ones.

It says in lines for a person what it does. Raises ModelUnreadable, naming the file.
"""

IMPORTERS: dict[str, Importer] = {
    "flux": flux1.import_files,
    "klein": klein.import_files,
    "sd15": sd15.import_files,
    "sdxl": sdxl.import_files,
    "z-image": z_image.import_files,
}

"""How much disk space a folder uses."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder, 0 if it does not exist. Targets of symbolic links do not count.

    Other processes may rename or delete files and subfolders meanwhile.
    """
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, it continues when a subfolder disappears
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total

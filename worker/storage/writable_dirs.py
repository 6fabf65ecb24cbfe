"""Whether a folder takes files: tried, because rights do not tell."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from worker.errors import SettingsError

_MAY_NOT = (errno.EACCES, errno.EPERM)


def check_folder(variable: str, folder: Path) -> Path:
    """A folder takes files, or the nearest above it where it will be made, which is returned.

    Nobody makes a folder in /proc, or on a disk without room. Raises SettingsError, which names `variable`.
    """
    # A link that leads nowhere counts as there. With os.path: Path.exists raises where a folder may not be searched.
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".tried-", dir=place))  # hidden: what lies in MODELS_DIR is listed
    except OSError as error:
        cure = f"set {variable} to a folder that takes files"
        if error.errno in _MAY_NOT:
            cure += f", or make this one for the user: mkdir -p {folder} && chown {os.getuid()} {folder}"
        raise SettingsError(
            f"{variable}={folder} cannot be written by this user (id {os.getuid()}): {place}: {error.strerror}", cure
        ) from error
    return place

"""Check that a folder is writable, by creating something in it: permissions alone do not prove it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from worker.errors import SettingsError

_PERMISSION_ERRORS = (errno.EACCES, errno.EPERM)


def check_writable(variable: str, folder: Path) -> Path:
    """Check that `folder` is writable, or can be created, and return it or the nearest existing folder above it.

    A folder below /proc or on a full disk cannot be created. Raises SettingsError, which names `variable`.
    """
    # A broken symbolic link counts as existing. os.path.lexists, because Path.exists raises in an unsearchable folder.
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        # A hidden name, because the folders in MODELS_DIR are listed as models.
        os.rmdir(tempfile.mkdtemp(prefix=".tried-", dir=existing))
    except OSError as error:
        hint = f"set {variable} to a folder that is writable"
        if error.errno in _PERMISSION_ERRORS:
            hint += f", or make this one writable for the user: mkdir -p {folder} && chown {os.getuid()} {folder}"
        raise SettingsError(
            f"{variable}={folder} cannot be written by this user (id {os.getuid()}): {existing}: {error.strerror}", hint
        ) from error
    return existing

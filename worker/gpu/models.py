"""The models that stay loaded in the GPU process from task to task, for the functions that perform tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from worker import errors

if TYPE_CHECKING:
    from worker.ml.models import Base, Store
    from worker.ml.networks.real_esrgan import Upscaler


class Models:
    """Loads models on request. `ml` is imported with the first one, so other tasks do not import diffusers."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._upscalers: dict[Path, Upscaler] = {}

    def base(self, folder: Path) -> Base:
        """Return a loaded base model. Raises ModelMissing if the folder cannot be used."""
        from worker.ml.errors import ModelUnreadable
        from worker.ml.models import Store, load

        self._store = self._store or Store(_say)
        try:
            return self._store.get(folder, load)
        except ModelUnreadable as error:
            raise errors.ModelMissing(f"this pod cannot use the base model {folder.name}; its log says why") from error

    def upscaler(self, path: Path) -> Upscaler:
        """Return a loaded upscaler. Raises ModelMissing if the file cannot be used."""
        from worker.ml.errors import ModelUnreadable
        from worker.ml.networks import real_esrgan

        if path not in self._upscalers:
            try:
                self._upscalers[path] = real_esrgan.load(path)
            except ModelUnreadable as error:
                raise errors.ModelMissing(
                    f"this pod cannot use the upscaler {path.parent.name}; its log says why"
                ) from error
        return self._upscalers[path]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

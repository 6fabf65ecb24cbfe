"""The models that stay loaded in the GPU process from task to task, for the functions that perform tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worker import errors

if TYPE_CHECKING:
    from worker.ml.models import Base, Resident
    from worker.ml.networks.upscaler import Upscaler


class Models:
    """Loads models on request. `ml` is imported with the first one, so other tasks do not import diffusers."""

    def __init__(self) -> None:
        self._bases: Resident | None = None
        self._upscalers: dict[tuple[Path, str], Upscaler] = {}

    def base(self, folder: Path) -> Base:
        """Return a loaded base model. Raises ModelMissing if the folder cannot be used."""
        from worker.ml.errors import ModelUnreadable
        from worker.ml.models import Resident

        self._bases = self._bases or Resident()
        try:
            return self._bases.get(folder)
        except ModelUnreadable as error:
            raise errors.ModelMissing(f"this pod cannot use the base model {folder.name}; its log says why") from error

    def upscaler(self, path: Path, backend: str) -> Upscaler:
        """Return a loaded upscaler. Raises ModelMissing if the file or the back end's package cannot be used."""
        from worker.ml.errors import ModelUnreadable
        from worker.ml.networks import real_esrgan

        if (path, backend) not in self._upscalers:
            try:
                self._upscalers[path, backend] = real_esrgan.load(path, backend)
            except (ModelUnreadable, ImportError) as error:
                raise errors.ModelMissing(
                    f"this pod cannot use the upscaler {path.parent.name} with {backend}; its log says why"
                ) from error
        return self._upscalers[path, backend]

"""The models that stay loaded in the GPU process from task to task, for the functions that perform tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from worker import errors

if TYPE_CHECKING:
    from worker.ml.guides.registry import LoadedGuide
    from worker.ml.models import Base, Loaded, Store
    from worker.ml.networks.upscaler import Upscaler


Network = TypeVar("Network", bound="Loaded")


class Models:
    """Loads models on request. `ml` is imported with the first one, so other tasks do not import diffusers."""

    def __init__(self) -> None:
        self._loaded: Store | None = None

    def base(self, folder: Path) -> Base:
        """Return a loaded base model. Raises ModelMissing if the folder cannot be used."""
        from worker.ml.errors import ModelUnreadable, PackageMissing

        try:
            return self._store().base(folder)
        except PackageMissing as error:
            raise errors.ModelMissing(f"this pod cannot use a base model: {error}") from error
        except ModelUnreadable as error:
            raise errors.ModelMissing(f"this pod cannot use the base model {folder.name}; its log says why") from error

    def guide(self, folder: Path | None, base: Base, capability: str) -> LoadedGuide:
        """Return the guide that gives a base this capability; without a folder, the one that is built in.

        Raises ModelMissing if the folder cannot be used, and ModelUnreadable for a base without a built-in one.
        """
        from worker.ml.errors import ModelUnreadable
        from worker.ml.guides.registry import open_guide

        if folder is None:
            return open_guide(None, base, capability)
        # A network for several kinds is loaded once for all.
        variant = f"{base.family.name} {capability.partition(':')[0]}"
        try:
            return self._store().get(folder, lambda path: open_guide(path, base, capability), variant=variant)
        except ModelUnreadable as error:
            reason = str(error).replace(str(folder.resolve()), folder.name).replace(str(folder), folder.name)
            raise errors.ModelMissing(f"this pod cannot use the guide {folder.name}: {reason}") from error

    def network(self, folder: Path, load: Callable[[Path], Network]) -> Network:
        """Return a network that draws nothing, which `load` makes of a folder, and move base models off the device.

        Raises ModelMissing if the folder cannot be used.
        """
        from worker.ml.errors import ModelUnreadable

        store = self._store()
        try:
            network = store.get(folder, load)
        except ModelUnreadable as error:
            reason = str(error).replace(str(folder.resolve()), folder.name).replace(str(folder), folder.name)
            raise errors.ModelMissing(f"this pod cannot use {folder.name}: {reason}") from error
        store.clear_device()
        return network

    def upscaler(self, path: Path, backend: str) -> Upscaler:
        """Return an upscaler, loaded for a back end. Raises ModelMissing if the file or the back end cannot be used."""
        from worker.ml.errors import ModelUnreadable
        from worker.ml.networks import real_esrgan

        try:
            return self._store().get(path, lambda path: real_esrgan.load(path, backend), variant=backend)
        except (ModelUnreadable, ImportError) as error:
            raise errors.ModelMissing(
                f"this pod cannot use the upscaler {path.parent.name} with {backend}; its log says why"
            ) from error

    def _store(self) -> Store:
        from worker.ml.models import Store

        self._loaded = self._loaded or Store(_say)
        return self._loaded


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

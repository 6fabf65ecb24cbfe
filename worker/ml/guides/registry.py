"""Opening a guide: by what its folder holds, or the one that the base's family has built in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from worker.ml.errors import ModelUnreadable
from worker.ml.guides import ip_adapter, uno
from worker.ml.guides.controlnet_files import open_controlnet
from worker.ml.guides.in_context import InContext, ReadsReferences
from worker.ml.guides.ip_adapter_files import adapter_file
from worker.ml.guides.uno_lora import is_lora
from worker.ml.models import Base, Loaded
from worker.ml.protocol import Guide


class LoadedGuide(Guide, Loaded, Protocol):
    """A guide with its weights, that `Store.get` keeps. It serves every base of the family it was opened for."""


def open_guide(folder: Path | None, base: Base, capability: str) -> LoadedGuide:
    """Return the guide that gives a base this capability: "reference", or "control:KIND".

    `folder` holds its weights; None means the one that is built into the base. Nothing is placed on the device. Raises
    ModelUnreadable, naming the folder: missing, damaged, of another family, or without this capability.
    """
    if folder is None:
        if capability == "reference" and isinstance(base.family, ReadsReferences):
            return InContext()
        raise ModelUnreadable(f"{base.folder.name} ({base.family.name}) has no {capability} built in: name a guide")
    if not folder.is_dir():
        raise ModelUnreadable(f"{folder} is not a guide: there is no such folder")
    if capability.startswith("control:"):
        return open_controlnet(folder, base, capability.removeprefix("control:"))
    file = adapter_file(folder)
    return uno.load(file, base) if is_lora(file) else ip_adapter.load(folder, base)

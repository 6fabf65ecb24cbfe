"""Make a mesh of what a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from worker.gpu.messages import Task

Quality = Literal["fast", "balanced", "quality"]
Format = Literal["glb", "obj", "stl"]
Texture = Literal["vertex", "baked"]


class MeshTask(Task):
    """Make a mesh of the first picture with a usable foreground.

    `Done.result`: `files`, a path each for mesh, preview, turntable, and what an OBJ refers to; `picture`, the number
    of the one that was used, and `skipped`, by number why another was not; `background`, `faces`, `vertices`, `bounds`,
    `watertight`; `stages`, by name {seconds, peak_gib}, and `peak_gib` of all: of the GPU or, on a CPU, of the process.
    """

    performer: ClassVar[str] = "worker.gpu.performers.mesh:make"

    base: Path
    pictures: dict[int, Path]
    """By their numbers in the request: encoded files of any kind that `ml.photos` reads, in the order to try them."""
    unusable: dict[int, str]
    """Why the request's other pictures are missing."""
    quality: Quality
    format: Format
    texture: Texture
    max_faces: int | None
    remover: Path | None
    """A network that finds the foreground; None where there is none."""
    workdir: Path

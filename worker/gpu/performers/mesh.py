"""Make the mesh of a MeshTask."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from worker import errors
from worker.gpu.messages import Event, Phase, Progress, Work
from worker.gpu.models import Models
from worker.gpu.tasks.mesh import MeshTask
from worker.ml.cutout import network as removers
from worker.ml.cutout.cutting import Cutout, object_of
from worker.ml.cutout.errors import UnusablePicture
from worker.ml.errors import BadInput, PackageMissing
from worker.ml.memory import GIB
from worker.ml.mesh import making
from worker.ml.mesh.progress import Done
from worker.ml.networks.triposr import loading
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.phases import Phase as MlPhase
from worker.ml.photos.opening import UnusablePhoto
from worker.ml.stages import StageFigures

CUTTING = "cutting out the object"
STEPWISE = {"computing densities", "colouring", "drawing previews"}
"""The stages that can be stopped after each chunk; others end the process if they take longer than a moment."""


def make(task: MeshTask, models: Models) -> Work:
    """Perform a MeshTask."""
    yield Phase(name="loading the model")
    network = models.network(task.base, partial(loading.load, device="cpu"))
    remover = models.network(task.remover, removers.load) if task.remover else None
    yield Phase(name=CUTTING)
    number, cutout, skipped = _choose(task, remover)
    try:
        network.to("cuda" if torch.cuda.is_available() else "cpu")
        made = yield from _made(network, cutout, task)
    except PackageMissing as error:
        raise errors.ModelMissing(f"this pod cannot make meshes: {error}") from error
    finally:
        network.to("cpu")  # base models plan with the whole device
    stages = {figures.name: _described(figures) for figures in made.stages}
    return {
        "files": _files(made),
        "picture": number,
        "skipped": skipped,
        "background": cutout.means,
        "faces": made.faces,
        "vertices": made.vertices,
        "bounds": made.bounds,
        "watertight": made.watertight,
        "stages": stages,
        "peak_gib": max(
            (stage["peak_gib"] for stage in stages.values() if stage["peak_gib"] is not None), default=None
        ),
    }


def _choose(task: MeshTask, remover: removers.BackgroundNetwork | None) -> tuple[int, Cutout, dict[int, str]]:
    """Return the first usable picture's number and object, and why the others were not used. Raises BadInput."""
    skipped = dict(task.unusable)
    for number, path in task.pictures.items():
        try:
            return number, object_of(path, remover), skipped
        except UnusablePhoto as error:
            skipped[number] = f"it is {error.reason}"
        except UnusablePicture as error:
            skipped[number] = str(error)
    raise BadInput("; ".join(f"picture {number}: {reason}" for number, reason in sorted(skipped.items())))


def _made(network: TripoSR, cutout: Cutout, task: MeshTask) -> Generator[Event, None, making.Made]:
    request = making.MeshRequest(
        resolution=making.RESOLUTIONS[task.quality],
        colouring=task.texture,
        file_format=task.format,
        max_faces=task.max_faces,
    )
    phase = ""
    work = making.make_mesh(network, cutout.picture, request, task.workdir)
    with closing(cast(Generator[Any, None, making.Made], work)):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return cast(making.Made, end.value)
            match event:
                case MlPhase(name=phase):
                    yield Phase(name=phase, stepwise=phase in STEPWISE)
                case Done(fraction):
                    yield Progress(fraction=fraction, phase=phase)


def _files(made: making.Made) -> dict[str, Path]:
    """Return the files by what they are: the mesh, its previews, and what an OBJ refers to."""
    mesh, *others = made.files
    of_obj = {"material" if path.suffix == ".mtl" else "texture": path for path in others}
    return {"mesh": mesh, "preview": made.preview, "turntable": made.turntable, **of_obj}


def _described(figures: StageFigures) -> dict[str, float | None]:
    """Return seconds, and the most memory in use: of the GPU, or of this process on a CPU."""
    peak_bytes = figures.host_bytes if figures.device_bytes is None else figures.device_bytes
    return {
        "seconds": round(figures.seconds, 3),
        "peak_gib": None if peak_bytes is None else round(peak_bytes / GIB, 3),
    }

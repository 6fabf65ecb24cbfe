"""Make the mesh of a MeshTask."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from worker import errors
from worker.gpu.messages import Phase, Progress, Work
from worker.gpu.models import Models
from worker.gpu.tasks.mesh import MeshTask
from worker.ml.draw.denoise import Step
from worker.ml.errors import PackageMissing
from worker.ml.memory import compute_device
from worker.ml.mesh import make as meshes
from worker.ml.networks.triposr import loading
from worker.ml.phases import Phase as MlPhase


def make(task: MeshTask, models: Models) -> Work:
    """Perform a MeshTask."""
    yield Phase(name="loading the model")
    model = models.network(task.base, _load)
    request = meshes.MeshRequest(**{**task.model_dump(exclude={"base"}), "pictures": tuple(task.pictures)})
    try:
        model.to(compute_device())
        made = yield from _reported(meshes.make(model, request))
    except PackageMissing as error:
        raise errors.ModelMissing(f"this pod cannot do the job: {error}") from error
    finally:
        model.to("cpu")  # base models plan with the whole device
    return {}

"""Make a 3D model of a thing: fetch its pictures, make the mesh, upload it with a preview and a turntable."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from worker.errors import InputMissing, InvalidInput, ModelMissing, StorageError, WorkerError
from worker.gpu.tasks.mesh import Format, MeshTask, Quality, Texture
from worker.guard.fetch import Limits
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease
from worker.jobs.started_job import Row, StartedJob
from worker.models import REMOVERS

LIMITS = Limits(max_bytes=50_000_000)
"""For one picture: more than shops accept."""
CONTENT_TYPES = {
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".stl": "model/stl",
    ".mtl": "model/mtl",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}


class MeshRequest(Row):
    """The request columns of `mesh_jobs`."""

    image_urls: list[str] = Field(default_factory=list)
    image_paths: list[str] = Field(default_factory=list)
    quality: Quality = "balanced"
    format: Format = "glb"
    texture: Texture = "vertex"
    max_faces: int | None = None


class PrefetchInputs(Row):
    """The answer of the SQL hook `prefetch`."""

    pictures: list[str]


def pictures(inputs: dict[str, Any]) -> list[str]:
    """Return the keys of a waiting job's pictures that show one person each."""
    return PrefetchInputs.model_validate(inputs).pictures


async def make_mesh(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Make the mesh of a job and upload it under this attempt's prefix."""
    request = lease.job.request(MeshRequest)
    base = lease.job.required_base
    await lease.begin_phase("fetching the pictures")
    found, failed = await _fetch_pictures(request, lease.job, context)
    await lease.begin_phase("fetching the model")
    task = MeshTask(
        base=await context.models.ensure(base.slug),
        remover=await _remover(context),
        pictures=found,
        unusable={number: error.message for number, error in failed.items()},
        quality=request.quality,
        format=request.format,
        texture=request.texture,
        max_faces=request.max_faces,
        workdir=context.workdir,
    )
    try:
        made = await context.compute_result(task, lease)
    except InvalidInput as error:
        if any(isinstance(other, StorageError) for other in failed.values()):
            raise StorageError(error.message) from error  # a picture that is there later may do
        raise
    context.mark_computed(lease)
    return {
        "bucket": context.bucket_meshes,
        "files": await _upload({name: Path(path) for name, path in made["files"].items()}, lease, context),
        "base": base.slug,
        **{name: value for name, value in made.items() if name != "files"},
    }


async def _fetch_pictures(
    request: MeshRequest, job: StartedJob, context: JobContext
) -> tuple[dict[int, Path], dict[int, WorkerError]]:
    """Return the pictures by their number in the request, from 1, and why others cannot be fetched.

    Raises InputMissing, InvalidInput or StorageError where there is none.
    """
    fetching = [_fetch_url(url, number, context) for number, url in enumerate(request.image_urls, 1)]
    fetching += [_fetch_key(key, number, job, context) for number, key in enumerate(request.image_paths, 1)]
    results = dict(enumerate(await asyncio.gather(*map(_or_error, fetching)), 1))
    found = {number: result for number, result in results.items() if isinstance(result, Path)}
    failed = {number: result for number, result in results.items() if isinstance(result, WorkerError)}
    if not found:
        raise _together(failed)
    return found, failed


async def _or_error(fetching: Coroutine[Any, Any, Path]) -> Path | WorkerError:
    """Return an error of one picture: another may do."""
    try:
        return await fetching
    except WorkerError as error:
        return error


def _together(failed: Mapping[int, WorkerError]) -> WorkerError:
    """Return one error for all pictures, which is retried if one of them may be there later."""
    message = "; ".join(f"picture {number}: {error.message}" for number, error in failed.items())
    for kind in (StorageError, InvalidInput):
        if any(isinstance(error, kind) for error in failed.values()):
            return kind(message)
    return InputMissing(message)


async def _fetch_url(url: str, number: int, context: JobContext) -> Path:
    return await context.download_picture(url, context.workdir / f"picture {number}", LIMITS)  # errors about it name it


async def _fetch_key(key: str, number: int, job: StartedJob, context: JobContext) -> Path:
    found = await context.store.head(context.bucket_uploads, key)
    if found is None:
        raise InputMissing("it is not in storage: upload it, then insert another job")
    if found.size > LIMITS.max_bytes:
        raise InvalidInput(f"it is too large ({found.size / 1e6:.0f} MB, at most {LIMITS.max_bytes / 1e6:.0f})")
    return await context.download_of(job, context.bucket_uploads, key, context.workdir / f"picture {number}", found)


async def _remover(context: JobContext) -> Path | None:
    """Return the first background remover that this pod can have: pictures without a background need none."""
    for slug, file in REMOVERS.items():
        with suppress(ModelMissing):
            return await context.models.ensure(slug) / file
    return None


async def _upload(files: Mapping[str, Path], lease: Lease, context: JobContext) -> dict[str, str]:
    """Upload the files under their own names, by which an OBJ refers to others; returns their keys."""
    keys = {name: f"{lease.job.prefix}{path.name}" for name, path in files.items()}
    await lease.stage([(context.bucket_meshes, key) for key in keys.values()])
    await lease.begin_phase("uploading")
    for name, path in files.items():
        await context.upload(context.bucket_meshes, keys[name], path, CONTENT_TYPES[path.suffix])
    return keys

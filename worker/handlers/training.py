"""Train a LoRA of one subject: download photos, train, upload checkpoints in the background, upload the files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from worker.errors import InputMissing, JobInterrupted, truncate_list
from worker.gpu.messages import CheckpointSaved, Done
from worker.gpu.tasks.training import (
    CaptionsCut,
    LoraSettings,
    PhotoFile,
    PhotosEnlarged,
    PhotosSkipped,
    SkippedPhoto,
    TrainTask,
)
from worker.guard.prompts import Text
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease
from worker.jobs.started_job import Row, StartedJob
from worker.jobs.wording import MIN_BYTES_CUT, caption, name_class
from worker.models.manifest import digest_of_base

log = structlog.get_logger()

TRIGGER_WORD = "ohwx"
"""A word that no tokenizer knows, for a subject without one."""
CLASS_NAME = "a person"
"""The class that the LoRA must leave unchanged, if neither the request nor its preset names one."""
PARALLEL_DOWNLOADS = 8
MAX_MB_A_PHOTO = 200
"""Larger than any camera's file; a video would fill the pod's disk."""


class Photo(Row):
    """A photo in the uploads bucket."""

    path: str
    caption: str | None = None


class TrainingInputs(Row):
    """The answer of the SQL hook `payload`."""

    photos: list[Photo]
    min_photos: int
    """The database starts no training with fewer; some of them may be missing from storage."""


class TrainingRequest(Row):
    """The request columns of `training_jobs`. `of` fills in what they leave open.

    In this order: the request (which its preset completed), `training` in the base model's defaults, the fallbacks of
    `of`. A setting that is still None is up to the family (`training_defaults` in `worker/ml`).
    """

    steps: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    resolution: int | None = None
    batch_size: int | None = None  # without a column, like the next: only a base model's defaults set them
    preservation: float | None = None
    seed: int
    trigger_word: str
    class_name: str
    inputs: TrainingInputs

    @classmethod
    def of(cls, job: StartedJob) -> TrainingRequest:
        """Return the request of a job. Raises InternalError if this release cannot read it."""
        named = job.subject.trigger_word if job.subject else None
        fallbacks = {"trigger_word": named or TRIGGER_WORD, "class_name": CLASS_NAME}
        return job.request(cls, {**fallbacks, **job.base_defaults.get("training", {})})

    def captions(self, photo: Photo) -> tuple[str, str]:
        """Return the captions that a photo is trained with: of the person, and of the class in the person's place."""
        text = caption(photo.caption, self.trigger_word, self.class_name)
        return text, name_class(text, self.trigger_word, self.class_name)


def texts(job: StartedJob) -> Iterator[Text]:
    """Yield the texts of a training that reach a model: trigger word, class name and every caption."""
    request = TrainingRequest.of(job)
    yield Text("the trigger word", request.trigger_word)
    yield Text("the class name", request.class_name)
    for photo in request.inputs.photos:
        name = f"the caption of {PurePosixPath(photo.path).name}"
        for first, words in zip((request.trigger_word, request.class_name), request.captions(photo), strict=True):
            yield Text(name, words)
            if len(words.encode()) > MIN_BYTES_CUT:
                yield Text(name, f"{first}, {words}")  # as the encoders may get it


def photos(inputs: dict[str, Any]) -> list[str]:
    """Return the keys of a waiting training's photos, for prefetching."""
    return [photo.path for photo in TrainingInputs.model_validate(inputs).photos]


async def train(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Train one LoRA on the subject's photos, and upload it under this attempt's prefix."""
    request, base = TrainingRequest.of(lease.job), lease.job.required_base
    await lease.begin_phase("fetching the base model")
    base_folder = await context.models.ensure(base.weights_slug)
    await lease.begin_phase(f"fetching {len(request.inputs.photos)} photos")
    photos, refused = await _fetch_photos(request.inputs, lease.job, context)
    task = TrainTask(
        base=base_folder,
        photos=[_photo_file(path, photo, refused.get(path), request) for path, photo in photos.items()],
        min_photos=request.inputs.min_photos,
        trigger_word=request.trigger_word,
        class_name=request.class_name,
        base_digest=await asyncio.to_thread(digest_of_base, base_folder),
        config=LoraSettings(**request.model_dump(include=set(LoraSettings.model_fields))),
        workdir=context.workdir,
        metadata={"base": base.slug, "trigger_word": request.trigger_word},
        resume_from=await _fetch_checkpoint(lease, context),
        checkpoint_every_s=context.checkpoint_every_s,
    )
    outcome = await _run(task, lease, context)
    context.mark_computed(lease)
    keys = await _upload_results(outcome.trained, lease, context)
    return {
        "bucket": context.bucket_models,
        **keys,
        **_described(outcome.trained, request, lease),
        "skipped_photos": [{"path": photos[photo.path].path, "reason": photo.reason} for photo in outcome.skipped],
        "enlarged_photos": [photos[path].path for path in outcome.enlarged],
        "cut_captions": [photos[path].path for path in outcome.cut_captions],
    }


@dataclass
class _Outcome:
    """What the GPU process reported of a training."""

    trained: dict[str, Any] = field(default_factory=dict)
    skipped: list[SkippedPhoto] = field(default_factory=list)
    enlarged: list[Path] = field(default_factory=list)
    cut_captions: list[Path] = field(default_factory=list)


def _photo_file(path: Path, photo: Photo, refused: str | None, request: TrainingRequest) -> PhotoFile:
    of_person, of_class = request.captions(photo)
    return PhotoFile(path=path, caption=of_person, class_caption=of_class, refused=refused)


async def _fetch_photos(
    inputs: TrainingInputs, job: StartedJob, context: JobContext
) -> tuple[dict[Path, Photo], dict[Path, str]]:
    """Return all photos by their path on disk, and why some were refused.

    A photo that was refused, or not found in storage, has no file. Raises InputMissing if too few are in storage.
    """
    # The name is kept, because errors about the photo contain it; keys contain only characters safe in file names.
    photos = {
        context.workdir / "photos" / f"{index:04d}" / PurePosixPath(photo.path).name[-100:]: photo
        for index, photo in enumerate(inputs.photos)
    }
    missing: list[str] = []
    refused: dict[Path, str] = {}
    limit = asyncio.Semaphore(PARALLEL_DOWNLOADS)

    async def fetch(path: Path, photo: Photo) -> None:
        async with limit:
            try:
                found = await context.store.head(context.bucket_uploads, photo.path)
                if found is not None and found.size > MAX_MB_A_PHOTO * 1e6:
                    refused[path] = f"too large ({found.size / 1e6:.0f} MB, at most {MAX_MB_A_PHOTO})"
                else:
                    await context.download_of(job, context.bucket_uploads, photo.path, path, found)
            except InputMissing:
                missing.append(path.name)

    tasks = [asyncio.create_task(fetch(path, photo)) for path, photo in photos.items()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if len(photos) - len(missing) < inputs.min_photos:
        raise InputMissing(
            f"training needs at least {inputs.min_photos} photos, and of {len(photos)} only "
            f"{len(photos) - len(missing)} are in storage: upload {truncate_list(sorted(missing))}, or name others"
        )
    return photos, refused


async def _fetch_checkpoint(lease: Lease, context: JobContext) -> Path | None:
    checkpoint = lease.job.checkpoint
    if checkpoint is None:
        return None
    with suppress(InputMissing):  # deleted meanwhile: training starts again
        path = context.workdir / "resume.safetensors"
        return await context.download_of(lease.job, checkpoint.bucket, checkpoint.key, path)
    return None


async def _run(task: TrainTask, lease: Lease, context: JobContext) -> _Outcome:
    """Run the task, and upload its checkpoints in the background, one at a time."""
    outcome = _Outcome()
    saving: asyncio.Task[None] | None = None
    try:
        async with aclosing(context.compute(task, lease)) as events:
            async for event in events:
                match event:
                    case CaptionsCut():
                        outcome.cut_captions = event.photos
                        await lease.begin_phase(event.summary)
                    case PhotosSkipped():
                        outcome.skipped = event.photos
                        await lease.begin_phase(event.summary)
                    case PhotosEnlarged():
                        outcome.enlarged = event.photos
                        await lease.begin_phase(event.summary)
                    case CheckpointSaved() if saving is None or saving.done():
                        saving = asyncio.create_task(_save_checkpoint(event, lease, context))
                    case CheckpointSaved():
                        pass  # the previous upload is still running: the next checkpoint is soon enough
                    case Done():
                        outcome.trained = event.result
    finally:
        if saving is not None:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
    return outcome


async def _save_checkpoint(event: CheckpointSaved, lease: Lease, context: JobContext) -> None:
    # A name of our own, because the GPU process deletes older ones.
    path = context.workdir / f"upload-checkpoint-{event.step}.safetensors"
    key = f"{lease.job.prefix}checkpoint-{event.step}.safetensors"
    try:
        await asyncio.to_thread(os.link, event.path, path)
        await lease.stage([(context.bucket_models, key)])
        await context.upload(context.bucket_models, key, path, "application/octet-stream")
        await lease.save_checkpoint(event.step, context.bucket_models, key)
        await asyncio.to_thread(path.unlink)
    except JobInterrupted:
        pass  # the handler is being stopped
    except Exception as error:
        log.warning(
            "checkpoint.upload_failed",
            message="the training continues; if this pod is lost, it resumes from an earlier checkpoint",
            step=event.step,
            reason=type(error).__name__,
        )


async def _upload_results(trained: dict[str, Any], lease: Lease, context: JobContext) -> dict[str, str]:
    """Return the keys of the LoRA and its losses, by their names in the result."""
    lora_key, losses_key = f"{lease.job.prefix}lora.safetensors", f"{lease.job.prefix}losses.json"
    await lease.begin_phase("uploading")
    await lease.stage([(context.bucket_models, lora_key), (context.bucket_models, losses_key)])
    await context.upload(context.bucket_models, lora_key, Path(trained["path"]), "application/octet-stream")
    await context.upload(context.bucket_models, losses_key, Path(trained["losses"]), "application/json")
    return {"lora": lora_key, "losses": losses_key}


def _described(trained: dict[str, Any], request: TrainingRequest, lease: Lease) -> dict[str, Any]:
    """Return what the result says about the LoRA besides its keys."""
    return {
        "sha256": trained["sha256"],
        "rank": trained["rank"],
        "trigger_word": request.trigger_word,
        "base": lease.job.required_base.slug,
        "settings": trained["resolved"] | {"class_name": request.class_name},
        "seconds": trained["seconds"],
        "peak_gib": trained["peak_gib"],
        "memory_plan": trained.get("memory_plan"),
        "metrics": {
            "steps": trained["steps"],
            "final_loss": trained["final_loss"],
            "photos": trained["photos"],
        },
    }

"""Train a LoRA of one subject: fetch photographs, train, checkpoint in the background, stage the files."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from worker.errors import InputMissing, JobInterrupted, truncate_list
from worker.gpu.messages import (
    CheckpointSaved,
    Done,
    LoraSettings,
    Phase,
    PhotoFile,
    PhotosSkipped,
    Progress,
    SkippedPhoto,
    TrainTask,
)
from worker.guard import consent
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease, Photo
from worker.jobs.wording import CLASS_NAME, TRIGGER_WORD, caption, name_class

log = structlog.get_logger()

PARALLEL_DOWNLOADS = 8
MIN_PHOTOS = 3  # as many as worker.photos_error asks for
MAX_MB_A_PHOTO = 200
"""More than any camera writes; a film would fill the pod's disk."""


async def train(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Train one LoRA on the subject's photographs and stage it under this attempt."""
    job = lease.job
    base = job.required_base
    await consent.require(context.database, job)
    await lease.begin_phase("fetching the base model")
    base_folder = await context.models.ensure(base.slug)
    await lease.begin_phase(f"fetching {len(job.photos)} photographs")
    photos, refused = await _fetch_photos(lease, context)
    resume_from = await _fetch_checkpoint(lease, context)
    trigger_word = job.training.trigger_word or (job.subject.trigger_word if job.subject else None) or TRIGGER_WORD
    class_name = job.training.class_name or CLASS_NAME
    captions = {path: caption(photo, trigger_word) for path, photo in photos.items()}
    task = TrainTask(
        base=base_folder,
        photos=[
            PhotoFile(
                path=path,
                caption=text,
                class_caption=name_class(text, trigger_word, class_name),
                refused=refused.get(path),
            )
            for path, text in captions.items()
        ],
        fewest_photos=MIN_PHOTOS,
        config=_settings(lease),
        workdir=context.workdir,
        metadata={"base": base.slug, "trigger_word": trigger_word},
        resume_from=resume_from,
        checkpoint_every_s=context.checkpoint_every_s,
    )
    trained, skipped = await _run(task, lease, context)
    context.computed(lease)
    result = await _stage(trained, trigger_word, class_name, lease, context)
    return result | {"skipped_photos": [{"path": photos[photo.path].path, "reason": photo.reason} for photo in skipped]}


def _settings(lease: Lease) -> LoraSettings:
    """The request (its preset filled it up, then its base), else the family's; without a seed, the job's own."""
    request = lease.job.training
    return LoraSettings(
        steps=request.steps,
        rank=request.rank,
        learning_rate=request.learning_rate,
        resolution=request.resolution,
        batch_size=request.batch_size,
        preservation=request.preservation,
        seed=request.seed if request.seed is not None else lease.id.int % 2**32,
    )


async def _fetch_photos(lease: Lease, context: JobContext) -> tuple[dict[Path, Photo], dict[Path, str]]:
    """All photographs by their place on disk, and what is wrong with those that were refused.

    Nothing lies in the place of one that was refused or that storage does not have. Raises InputMissing when storage
    has fewer than MIN_PHOTOS.
    """
    # The name stays, because it is what an error about the picture says; keys hold nothing a disk minds.
    photos = {
        context.workdir / "photos" / f"{index:04d}" / PurePosixPath(photo.path).name[-100:]: photo
        for index, photo in enumerate(lease.job.photos)
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
                    await context.download(context.bucket_uploads, photo.path, path)
            except InputMissing:
                missing.append(path.name)

    tasks = [asyncio.create_task(fetch(path, photo)) for path, photo in photos.items()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if len(photos) - len(missing) < MIN_PHOTOS:
        raise InputMissing(
            f"training needs at least {MIN_PHOTOS} photographs, and of {len(photos)} only "
            f"{len(photos) - len(missing)} are in storage: upload {truncate_list(sorted(missing))}, or name others"
        )
    return photos, refused


async def _fetch_checkpoint(lease: Lease, context: JobContext) -> Path | None:
    checkpoint = lease.job.checkpoint
    if checkpoint is None:
        return None
    with suppress(InputMissing):  # swept meanwhile: training starts again
        return await context.download(checkpoint.bucket, checkpoint.key, context.workdir / "resume.safetensors")
    return None


async def _run(task: TrainTask, lease: Lease, context: JobContext) -> tuple[dict[str, Any], list[SkippedPhoto]]:
    """Drain the GPU's events: report progress, upload checkpoints in the background, one at a time.

    Returns the task's result and the photographs it did without.
    """
    result: dict[str, Any] = {}
    skipped: list[SkippedPhoto] = []
    saving: asyncio.Task[None] | None = None
    try:
        async with aclosing(context.compute(task, lease)) as events:
            async for event in events:
                match event:
                    case Phase(name=name):
                        await lease.begin_phase(name)
                    case PhotosSkipped(photos=skipped, summary=summary):
                        await lease.begin_phase(summary)
                    case Progress(fraction=fraction, phase=phase, metrics=metrics):
                        await lease.report(fraction, phase, {**metrics, "seconds": round(lease.gpu_seconds, 1)})
                    case CheckpointSaved() if saving is None or saving.done():
                        saving = asyncio.create_task(_save_checkpoint(event, lease, context))
                    case CheckpointSaved():
                        pass  # the upload before it is still under way: the next checkpoint is soon enough
                    case Done():
                        result = event.result
    finally:
        if saving is not None:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
    return result, skipped


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
        # Training goes on: a pod that is lost now costs more, and that is all.
        log.warning("checkpoint.skipped", step=event.step, reason=type(error).__name__)


async def _stage(
    trained: dict[str, Any], trigger_word: str, class_name: str, lease: Lease, context: JobContext
) -> dict[str, Any]:
    lora_key, losses_key = f"{lease.job.prefix}lora.safetensors", f"{lease.job.prefix}losses.json"
    await lease.begin_phase("uploading")
    await lease.stage([(context.bucket_models, lora_key), (context.bucket_models, losses_key)])
    await context.upload(context.bucket_models, lora_key, Path(trained["path"]), "application/octet-stream")
    await context.upload(context.bucket_models, losses_key, Path(trained["losses"]), "application/json")
    return {
        "bucket": context.bucket_models,
        "lora": lora_key,
        "losses": losses_key,
        "sha256": trained["sha256"],
        "rank": trained["rank"],
        "trigger_word": trigger_word,
        "base": lease.job.required_base.slug,
        "settings": trained["resolved"] | {"class_name": class_name},
        "seconds": trained["seconds"],
        "peak_gib": trained["peak_gib"],
        "memory_plan": trained.get("memory_plan"),
        "metrics": {
            "steps": trained["steps"],
            "final_loss": trained["final_loss"],
            "photos": trained["photos"],
        },
    }

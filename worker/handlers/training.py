"""Train a LoRA of one subject: fetch photographs, train, checkpoint in the background, stage the files."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from worker import consent
from worker.errors import InputMissing, JobInterrupted
from worker.gpu_tasks import CheckpointSaved, Done, LoraSettings, Phase, PhotoFile, Progress, TrainTask
from worker.handlers.tools import Tools
from worker.jobs import Lease, Photo, names_trigger

log = structlog.get_logger()

PARALLEL_DOWNLOADS = 8


async def train(lease: Lease, tools: Tools) -> dict[str, Any]:
    """Train one LoRA on the subject's photographs and stage it under this attempt."""
    job = lease.job
    base = job.required_base
    await consent.require(tools.database, job)
    await lease.begin_phase("fetching the base model")
    base_folder = await tools.models.ensure(base.slug)
    await lease.begin_phase(f"fetching {len(job.photos)} photographs")
    photos = await _fetch_photos(lease, tools)
    resume_from = await _fetch_checkpoint(lease, tools)
    trigger_word = job.training.trigger_word or (job.subject.trigger_word if job.subject else None) or "subject"
    task = TrainTask(
        base=base_folder,
        photos=[
            PhotoFile(path=path, caption=caption(photo, trigger_word))
            for photo, path in zip(job.photos, photos, strict=True)
        ],
        config=_settings(lease),
        workdir=tools.workdir,
        metadata={"base": base.slug, "trigger_word": trigger_word},
        resume_from=resume_from,
        checkpoint_every_s=tools.checkpoint_every_s,
    )
    trained = await _run(task, lease, tools)
    tools.computed(lease)
    return await _stage(trained, trigger_word, lease, tools)


def caption(photo: Photo, trigger_word: str) -> str:
    """What the picture shows, always with the word that is to call the person up."""
    if photo.caption is None:
        return f"a photo of {trigger_word}"
    return photo.caption if names_trigger(photo.caption, trigger_word) else f"{trigger_word}, {photo.caption}"


def _settings(lease: Lease) -> LoraSettings:
    """The request (its preset filled it up), else the family's defaults; without a seed, one that is the job's own."""
    request = lease.job.training
    return LoraSettings(
        steps=request.steps,
        rank=request.rank,
        learning_rate=request.learning_rate,
        resolution=request.resolution,
        seed=request.seed if request.seed is not None else lease.id.int % 2**32,
    )


async def _fetch_photos(lease: Lease, tools: Tools) -> list[Path]:
    limit = asyncio.Semaphore(PARALLEL_DOWNLOADS)

    async def fetch(index: int, photo: Photo) -> Path:
        # The name stays, because it is what an error about the picture says; keys hold nothing a disk minds.
        path = tools.workdir / "photos" / f"{index:04d}" / PurePosixPath(photo.path).name[-100:]
        async with limit:
            try:
                return await tools.download(tools.bucket_uploads, photo.path, path)
            except InputMissing as error:
                raise InputMissing(
                    f"photograph {PurePosixPath(photo.path).name} is not in storage: upload it, or remove it"
                ) from error

    tasks = [asyncio.create_task(fetch(index, photo)) for index, photo in enumerate(lease.job.photos)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fetch_checkpoint(lease: Lease, tools: Tools) -> Path | None:
    checkpoint = lease.job.checkpoint
    if checkpoint is None:
        return None
    with suppress(InputMissing):  # swept meanwhile: training starts again
        return await tools.download(checkpoint.bucket, checkpoint.key, tools.workdir / "resume.safetensors")
    return None


async def _run(task: TrainTask, lease: Lease, tools: Tools) -> dict[str, Any]:
    """Drain the GPU's events: report progress, upload checkpoints in the background, one at a time."""
    result: dict[str, Any] = {}
    saving: asyncio.Task[None] | None = None
    try:
        async with aclosing(tools.compute(task, lease)) as events:
            async for event in events:
                match event:
                    case Phase(name=name):
                        await lease.begin_phase(name)
                    case Progress(fraction=fraction, phase=phase, metrics=metrics):
                        await lease.report(fraction, phase, {**metrics, "seconds": round(lease.gpu_seconds, 1)})
                    case CheckpointSaved() if saving is None or saving.done():
                        saving = asyncio.create_task(_save_checkpoint(event, lease, tools))
                    case CheckpointSaved():
                        pass  # the upload before it is still under way: the next checkpoint is soon enough
                    case Done():
                        result = event.result
    finally:
        if saving is not None:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
    return result


async def _save_checkpoint(event: CheckpointSaved, lease: Lease, tools: Tools) -> None:
    # A name of our own, because the GPU process deletes older ones.
    path = tools.workdir / f"upload-checkpoint-{event.step}.safetensors"
    key = f"{lease.job.prefix}checkpoint-{event.step}.safetensors"
    try:
        await asyncio.to_thread(os.link, event.path, path)
        await lease.stage([(tools.bucket_models, key)])
        await tools.upload(tools.bucket_models, key, path, "application/octet-stream")
        await lease.save_checkpoint(event.step, tools.bucket_models, key)
        await asyncio.to_thread(path.unlink)
    except JobInterrupted:
        pass  # the handler is being stopped
    except Exception as error:
        # Training goes on: a pod that is lost now costs more, and that is all.
        log.warning("checkpoint.skipped", step=event.step, reason=type(error).__name__)


async def _stage(trained: dict[str, Any], trigger_word: str, lease: Lease, tools: Tools) -> dict[str, Any]:
    lora_key, losses_key = f"{lease.job.prefix}lora.safetensors", f"{lease.job.prefix}losses.json"
    await lease.begin_phase("uploading")
    await lease.stage([(tools.bucket_models, lora_key), (tools.bucket_models, losses_key)])
    await tools.upload(tools.bucket_models, lora_key, Path(trained["path"]), "application/octet-stream")
    await tools.upload(tools.bucket_models, losses_key, Path(trained["losses"]), "application/json")
    return {
        "bucket": tools.bucket_models,
        "lora": lora_key,
        "losses": losses_key,
        "sha256": trained["sha256"],
        "rank": trained["rank"],
        "trigger_word": trigger_word,
        "base": lease.job.required_base.slug,
        "seconds": trained["seconds"],
        "peak_gib": trained["peak_gib"],
        "memory_plan": trained.get("memory_plan"),
        "metrics": {
            "steps": trained["steps"],
            "final_loss": trained["final_loss"],
            "photos": len(lease.job.photos),
        },
    }

"""Draw pictures: base, LoRAs, merged prompt, always upscaled; then encode and stage beside the next job."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

from worker.gpu.messages import Done, GenerateTask, LoraFile, Phase, Progress
from worker.guard import consent
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease, TrainedModel
from worker.jobs.wording import merged_negative_prompt, merged_prompt
from worker.storage.image_encoding import CONTENT_TYPE, SUFFIX, EncodedPicture, encode


async def generate(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Draw and upscale the pictures a job asks for, and stage them under this attempt."""
    job = lease.job
    base, request = job.required_base, job.generation
    await consent.require(context.database, job)
    await lease.begin_phase("fetching the base model")
    base_folder = await context.models.ensure(base.slug)
    upscaler = await context.models.ensure_upscaler(request.upscale)
    loras = [await _fetch_lora(model, context) for model in job.models]
    task = GenerateTask(
        base=base_folder,
        prompt=merged_prompt(request.prompt, job.preset, job.models),
        negative_prompt=merged_negative_prompt(request.negative_prompt, job.preset),
        seed=request.seed if request.seed is not None else lease.id.int % 2**32,
        num_images=request.num_images,
        loras=loras,
        upscaler=upscaler,
        workdir=context.workdir,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=request.guidance,
    )
    drawn = await _run(task, lease, context)
    context.computed(lease)
    return await _stage(drawn, lease, context)


async def _fetch_lora(model: TrainedModel, context: JobContext) -> LoraFile:
    cached, fetched = await context.loras.get(model, context.workdir)
    context.traffic.bytes_in += fetched
    path = context.workdir / f"{model.id}.safetensors"  # what an error about the file calls it
    if not path.exists():
        await asyncio.to_thread(os.link, cached, path)
    return LoraFile(path=path, scale=model.scale)


async def _run(task: GenerateTask, lease: Lease, context: JobContext) -> dict[str, Any]:
    result: dict[str, Any] = {}
    async with aclosing(context.compute(task, lease)) as events:
        async for event in events:
            match event:
                case Phase(name=name):
                    await lease.begin_phase(name)
                case Progress(fraction=fraction, phase=phase, metrics=metrics):
                    await lease.report(fraction, phase, {**metrics, "seconds": round(lease.gpu_seconds, 1)})
                case Done():
                    result = event.result
    return result


async def _stage(drawn: dict[str, Any], lease: Lease, context: JobContext) -> dict[str, Any]:
    """Encode in threads, register the keys, upload; the raw picture is kept beside the upscaled one."""
    request = lease.job.generation
    suffix = SUFFIX[request.output_format]
    await lease.begin_phase("encoding")
    pictures: list[dict[str, Any]] = []
    files: list[tuple[str, EncodedPicture]] = []
    for picture in drawn["pictures"]:
        metadata = _metadata(picture, drawn["resolved"], lease)
        keys = {
            "upscaled": f"{lease.job.prefix}{picture['index']}.{suffix}",
            "raw": f"{lease.job.prefix}{picture['index']}.raw.png",
        }
        upscaled = await asyncio.to_thread(
            encode,
            Path(picture["upscaled"]),
            context.workdir / f"{picture['index']}.{suffix}",
            request.output_format,
            request.quality,
            metadata,
        )
        raw = await asyncio.to_thread(
            encode,
            Path(picture["raw"]),
            context.workdir / f"{picture['index']}.raw.png",
            "png",
            request.quality,
            metadata,
        )
        files += [(keys["upscaled"], upscaled), (keys["raw"], raw)]
        pictures.append(
            {
                **keys,
                "seed": picture["seed"],
                "sha256": upscaled.sha256,
                "width": upscaled.width,
                "height": upscaled.height,
                "raw_width": raw.width,
                "raw_height": raw.height,
                "size_bytes": upscaled.size_bytes,
            }
        )
    await lease.stage([(context.bucket_uploads, key) for key, _ in files])
    await lease.begin_phase("uploading")
    for key, file in files:
        content_type = CONTENT_TYPE["png"] if key.endswith(".png") else CONTENT_TYPE[request.output_format]
        await context.upload(context.bucket_uploads, key, file.path, content_type)
    return {
        "bucket": context.bucket_uploads,
        "pictures": pictures,
        "base": lease.job.required_base.slug,
        "models": [{"id": str(model.id), "version": model.version, "scale": model.scale} for model in lease.job.models],
        "settings": drawn["resolved"],
        "seconds": drawn["seconds"],
        "peak_gib": drawn["peak_gib"],
        "memory_plan": drawn["memory_plan"],
    }


def _metadata(picture: dict[str, Any], resolved: dict[str, Any], lease: Lease) -> dict[str, str]:
    """What a file says about itself: model, LoRA versions, seed, steps, job. Never the prompt or a person."""
    return {
        "Software": "Likeness",
        "base": lease.job.required_base.slug,
        "loras": ", ".join(f"{model.id} v{model.version}" for model in lease.job.models),
        "seed": str(picture["seed"]),
        "steps": str(resolved.get("steps")),
        "job": str(lease.id),
    }

"""Generate and upscale pictures with a base model, LoRAs, guides and a merged prompt; encode and upload beside the
next job.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, FiniteFloat

from worker.errors import InputMissing, InvalidInput, WorkerError
from worker.gpu.tasks.generation import GenerateTask, GuideFile, LoraFile
from worker.guard.fetch import Limits
from worker.guard.prompts import Text
from worker.handlers.context import JobContext
from worker.handlers.earlier_results import fingerprint, reuse
from worker.jobs.lease import Lease
from worker.jobs.started_job import Row, StartedJob
from worker.jobs.wording import MIN_BYTES_CUT, merged_negative_prompt, merged_prompt
from worker.models import UPSCALERS
from worker.storage.checksums import sha256_of
from worker.storage.image_encoding import CONTENT_TYPE, SUFFIX, EncodedPicture, encode
from worker.storage.lora_cache import StoredLora

MAX_MB_A_PICTURE = 200
"""Of references and control pictures: larger than any camera's file; a video would fill the pod's disk."""
MAX_MB_A_URL = 50
"""Of references that are fetched from elsewhere: more than shops accept."""


class ScaledLora(StoredLora):
    """A published LoRA, with its strength in this job."""

    version: int
    rank: int
    trigger_word: str | None
    scale: FiniteFloat


class WantedGuide(Row):
    """References or a control picture: what they are for, how strong, and in which share of the steps."""

    capability: str
    guide: str | None
    """The model that gives it; None where it is built into the base model."""
    detector: str | None = None
    """The model that makes a map of the picture, which is a photo; None where it is read as it is."""
    paths: list[str]
    urls: list[str] = Field(default_factory=list)
    """Of references that are not in storage."""
    scale: FiniteFloat
    start: FiniteFloat
    end: FiniteFloat

    @property
    def what(self) -> str:
        """Return how to call one of its pictures."""
        return "reference" if self.capability == "reference" else "control picture"


class GenerationInputs(Row):
    """The answer of the SQL hook `payload`."""

    loras: list[ScaledLora]
    guides: list[WantedGuide] = Field(default_factory=list)

    @property
    def used_guides(self) -> list[WantedGuide]:
        """Return those that change the picture: with scale 0, neither guide nor pictures are needed."""
        return [guide for guide in self.guides if guide.scale != 0]


class PrefetchInputs(Row):
    """The answer of the SQL hook `prefetch`."""

    loras: list[ScaledLora]
    pictures: list[str]


class GenerationRequest(Row):
    """The request columns of `generation_jobs`. The base model's defaults fill in what they leave open; what is
    still None is up to its family.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    clip_skip: int | None = None
    seed: int
    num_images: int = 1
    upscale: Literal[2, 4] = 4
    quality: int = 92
    output_format: Literal["png", "jpeg", "webp"] = "png"
    cache: bool = True
    inputs: GenerationInputs

    @classmethod
    def of(cls, job: StartedJob) -> GenerationRequest:
        """Return the request of a job. Raises InternalError if this release cannot read it."""
        return job.request(cls, job.base_defaults)

    def merged_prompt(self, job: StartedJob) -> str:
        """Return the prompt, with the preset's and the trigger word of every LoRA."""
        return merged_prompt(self.prompt, job.preset, self.trigger_words)

    @property
    def trigger_words(self) -> list[str]:
        """Return the words of the LoRAs, in their order."""
        return [lora.trigger_word for lora in self.inputs.loras if lora.trigger_word]

    def merged_negative_prompt(self, job: StartedJob) -> str | None:
        """Return the negative prompt, with the preset's."""
        return merged_negative_prompt(self.negative_prompt, job.preset)


def texts(job: StartedJob) -> Iterator[Text]:
    """Yield the texts of a request that reach a model."""
    request = GenerationRequest.of(job)
    prompt = request.merged_prompt(job)
    yield Text("the prompt", prompt)
    if len(prompt.encode()) > MIN_BYTES_CUT:
        yield Text("the prompt", ", ".join([*request.trigger_words, prompt]))  # as the encoder may get it
    yield Text("the negative prompt", request.merged_negative_prompt(job) or "", "negative_prompt")


def loras(inputs: dict[str, Any]) -> list[ScaledLora]:
    """Return the LoRAs of a waiting job."""
    return PrefetchInputs.model_validate(inputs).loras


def pictures(inputs: dict[str, Any]) -> list[str]:
    """Return the keys of references and control pictures that show one person each."""
    return PrefetchInputs.model_validate(inputs).pictures


async def generate(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Generate and upscale the pictures of a job, and upload them under this attempt's prefix.

    An identical request of the same owner is answered with copies of its pictures.
    """
    request, base = GenerationRequest.of(lease.job), lease.job.required_base
    pictures = [await _fetch_pictures(guide, lease, context) for guide in request.inputs.used_guides]
    if request.cache:
        contents = [[await asyncio.to_thread(sha256_of, path) for path in paths] for paths in pictures]
        digest = await _fingerprint(request, contents, lease.job, context)
        earlier = await reuse(digest, lease, context)
        if earlier is not None:
            return earlier | {"guides": _with_own_paths(earlier["guides"], request)}
    await lease.begin_phase("fetching the base model")
    task = GenerateTask(
        base=await context.models.ensure(base.weights_slug),
        upscaler=await context.models.ensure_upscaler(request.upscale),
        upscaler_backend=context.upscaler_backend,
        loras=[await _fetch_lora(lora, context) for lora in request.inputs.loras],
        guides=[await _guide_file(*used, context) for used in zip(request.inputs.used_guides, pictures, strict=True)],
        trigger_words=request.trigger_words,
        prompt=request.merged_prompt(lease.job),
        negative_prompt=request.merged_negative_prompt(lease.job),
        seed=request.seed,
        num_images=request.num_images,
        workdir=context.workdir,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=request.guidance,
        sampler=request.sampler,
        clip_skip=request.clip_skip,
    )
    if request.cache and (fetched := await _fingerprint(request, contents, lease.job, context)) != digest:
        await lease.find_result(fetched)  # a model was replaced while this pod fetched it: recorded as what it is now
    drawn = await context.compute_result(task, lease)
    context.mark_computed(lease)
    files, described = await _encode_pictures(drawn, request, lease, context)
    await _upload_results(files, request, lease, context)
    return {
        "bucket": context.bucket_uploads,
        "pictures": described,
        "base": base.slug,
        "models": [{"id": str(lora.id), "version": lora.version, "scale": lora.scale} for lora in request.inputs.loras],
        "guides": _described_guides(drawn, request),
        "settings": {name: value for name, value in drawn["resolved"].items() if name != "padded_controls"},
        "seconds": drawn["seconds"],
        "peak_gib": drawn["peak_gib"],
        "memory_plan": drawn["memory_plan"],
    }


async def _fingerprint(
    request: GenerationRequest, contents: list[list[str]], job: StartedJob, context: JobContext
) -> str:
    """Return a digest of what the pictures depend on: models by their files, inputs by their checksums, settings."""
    models = [job.required_base.weights_slug, UPSCALERS[request.upscale]]
    models += [
        slug for guide in request.inputs.used_guides for slug in (guide.guide, guide.detector) if slug is not None
    ]
    return fingerprint(
        {
            "subjects": sorted(map(str, job.subjects)),
            "base": job.required_base.slug,
            "models": [[slug, await context.models.digest(slug)] for slug in models],
            "upscaler": context.upscaler_backend,
            "prompts": [request.merged_prompt(job), request.merged_negative_prompt(job)],
            "settings": request.model_dump(mode="json", exclude={"inputs", "cache", "prompt", "negative_prompt"}),
            "loras": [lora.model_dump(mode="json", exclude={"path"}) for lora in request.inputs.loras],
            "guides": [guide.model_dump(exclude={"paths", "urls"}) for guide in request.inputs.guides],
            "pictures": contents,
        }
    )


async def _fetch_lora(lora: ScaledLora, context: JobContext) -> LoraFile:
    cached, fetched = await context.loras.get(lora, context.workdir)
    context.traffic.bytes_in += fetched
    path = context.workdir / f"{lora.id}.safetensors"  # errors about the file name it
    if not path.exists():
        await asyncio.to_thread(os.link, cached, path)
    return LoraFile(path=path, scale=lora.scale)


async def _fetch_pictures(guide: WantedGuide, lease: Lease, context: JobContext) -> list[Path]:
    """Download the references, or the control picture."""
    await lease.begin_phase("fetching references" if guide.what == "reference" else "fetching the control picture")
    folder = context.workdir / guide.what
    files = [
        await _fetch_picture(guide.what, key, folder / str(number), lease, context)
        for number, key in enumerate(guide.paths)
    ]
    files += [await _fetch_url(guide.what, number, url, folder, context) for number, url in enumerate(guide.urls, 1)]
    return files


async def _guide_file(guide: WantedGuide, pictures: list[Path], context: JobContext) -> GuideFile:
    return GuideFile(
        capability=guide.capability,
        model=None if guide.guide is None else await context.models.ensure(guide.guide),
        detector=None if guide.detector is None else await context.models.ensure(guide.detector),
        pictures=pictures,
        scale=guide.scale,
        start=guide.start,
        end=guide.end,
    )


async def _fetch_picture(what: str, key: str, folder: Path, lease: Lease, context: JobContext) -> Path:
    """Download a picture, under its own name, which errors contain. Raises InputMissing and InvalidInput."""
    name = PurePosixPath(key).name[-100:]
    found = await context.store.head(context.bucket_uploads, key)
    if found is None:
        raise InputMissing(f"{what} {name} is not in storage: upload it, then insert another job")
    if found.size > MAX_MB_A_PICTURE * 1e6:
        raise InvalidInput(f"{what} {name} is too large ({found.size / 1e6:.0f} MB, at most {MAX_MB_A_PICTURE})")
    return await context.download_of(lease.job, context.bucket_uploads, key, folder / name, found)


async def _fetch_url(what: str, number: int, url: str, folder: Path, context: JobContext) -> Path:
    """Download a picture by its URL, which no error repeats. Raises InputMissing, InvalidInput and StorageError."""
    path = folder / f"{what} {number}"  # errors about the file name it
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    try:
        return await context.download_picture(url, path, Limits(max_bytes=MAX_MB_A_URL * 1_000_000))
    except WorkerError as error:
        raise type(error)(f"{what} {number}: {error.message}") from error


def _described_guides(drawn: dict[str, Any], request: GenerationRequest) -> list[dict[str, Any]]:
    """Return what steered the pictures, for the result: as asked, and what became of it."""
    padded = drawn["resolved"]["padded_controls"]
    return [
        guide.model_dump(exclude={"urls"})
        | {"used": guide.scale != 0, "padded": guide.capability.partition(":")[2] in padded}
        for guide in request.inputs.guides
    ]


def _with_own_paths(described: list[dict[str, Any]], request: GenerationRequest) -> list[dict[str, Any]]:
    """Return the guides of an identical request, whose pictures may be stored under other keys, with this one's."""
    pairs = zip(described, request.inputs.guides, strict=True)
    return [earlier | {"paths": guide.paths} for earlier, guide in pairs]


async def _encode_pictures(
    drawn: dict[str, Any], request: GenerationRequest, lease: Lease, context: JobContext
) -> tuple[dict[str, EncodedPicture], list[dict[str, Any]]]:
    """Return the encoded files by their keys, and the pictures of the result: each an upscaled file and a raw one."""
    await lease.begin_phase("encoding")
    files: dict[str, EncodedPicture] = {}
    pictures: list[dict[str, Any]] = []
    for picture in drawn["pictures"]:
        metadata = _metadata(picture["seed"], drawn["resolved"], request, lease)
        encoded = await _encode(picture, metadata, request, context)
        files |= {f"{lease.job.prefix}{file.path.name}": file for file in encoded}
        pictures.append(_described(picture["seed"], *encoded, lease.job.prefix))
    return files, pictures


async def _upload_results(
    files: dict[str, EncodedPicture], request: GenerationRequest, lease: Lease, context: JobContext
) -> None:
    await lease.stage([(context.bucket_uploads, key) for key in files])
    await lease.begin_phase("uploading")
    for key, file in files.items():
        content_type = CONTENT_TYPE["png"] if key.endswith(".png") else CONTENT_TYPE[request.output_format]
        await context.upload(context.bucket_uploads, key, file.path, content_type)


async def _encode(
    picture: dict[str, Any], metadata: dict[str, str], request: GenerationRequest, context: JobContext
) -> tuple[EncodedPicture, EncodedPicture]:
    """Return the upscaled picture in the format asked for, and the raw one as PNG."""
    upscaled = await asyncio.to_thread(
        encode,
        Path(picture["upscaled"]),
        context.workdir / f"{picture['index']}.{SUFFIX[request.output_format]}",
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
    return upscaled, raw


def _described(seed: int, upscaled: EncodedPicture, raw: EncodedPicture, prefix: str) -> dict[str, Any]:
    """Return the entry of one picture in the result."""
    return {
        "upscaled": f"{prefix}{upscaled.path.name}",
        "raw": f"{prefix}{raw.path.name}",
        "seed": seed,
        "sha256": upscaled.sha256,
        "width": upscaled.width,
        "height": upscaled.height,
        "raw_width": raw.width,
        "raw_height": raw.height,
        "size_bytes": upscaled.size_bytes,
    }


def _metadata(seed: int, resolved: dict[str, Any], request: GenerationRequest, lease: Lease) -> dict[str, str]:
    """Return the metadata of a file: base model, LoRA versions, seed, steps, job. Never the prompt or a person."""
    return {
        "Software": "Likeness",
        "base": lease.job.required_base.slug,
        "loras": ", ".join(f"{lora.id} v{lora.version}" for lora in request.inputs.loras),
        "seed": str(seed),
        "steps": str(resolved.get("steps")),
        "job": str(lease.id),
    }

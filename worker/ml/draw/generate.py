"""Pictures from a prompt, a base and LoRAs, one step at a time.

The denoising loop is written out, so that to stop is to not ask for the next step. Noise is drawn on a CPU generator: a
seed gives the same picture on every machine, and the same as plain diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from worker.ml.errors import BadInput
from worker.ml.models import Base
from worker.ml.phases import Phase
from worker.ml.protocol import Grid, Sampler, Text


@dataclass(frozen=True)
class LoraUse:
    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class PictureRequest:
    """What to draw; None means the base's own default."""

    prompt: str
    negative_prompt: str | None
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    seed: int
    num_images: int = 1
    loras: tuple[LoraUse, ...] = ()


@dataclass(frozen=True)
class Resolved:
    """The settings of a drawing, with the base's defaults filled in."""

    width: int  # the requested one, rounded down to a multiple of the base's token size
    height: int
    steps: int
    guidance: float
    negative_prompt_used: bool
    prompt_cut_by: tuple[str, ...]  # the encoders that read only the beginning of the prompt


@dataclass(frozen=True)
class Step:
    index: int  # steps done, from 1
    total: int  # over all images


@dataclass(frozen=True)
class Picture:
    index: int
    seed: int
    pixels: npt.NDArray[np.uint8]  # (H, W, 3), sRGB


@torch.no_grad()
def generate(base: Base, request: PictureRequest) -> Iterator[Resolved | Phase | Step | Picture]:
    """Draw `num_images` pictures, image i with seed + i. To stop, stop iterating: the base is left unchanged.

    Raises BadInput (the request) and ModelUnreadable (a LoRA) before the first step.
    """
    resolved = resolve(base, request)
    yield resolved
    architecture, parts = base.architecture, base.parts
    token_px = architecture.token_px(parts)
    grid = (resolved.height // token_px, resolved.width // token_px)
    done = 0

    if request.loras:
        yield Phase("loading LoRAs")
    with architecture.loras(parts, [(lora.path, lora.scale) for lora in request.loras]):
        yield Phase("reading the prompt")
        base.place(*architecture.encoders)
        negative = [request.negative_prompt or ""] if architecture.uses_cfg(parts, resolved.guidance) else []
        text = architecture.encode_prompts(parts, [*negative, request.prompt], base.device)

        for index in range(request.num_images):
            seed = request.seed + index
            yield Phase("drawing")
            base.place(architecture.denoiser)
            noise = torch.Generator("cpu").manual_seed(seed)
            sampler = architecture.sampler(parts, grid, resolved.steps, base.device, noise)
            latents = architecture.first_noise(parts, sampler, grid, noise, text.tokens.dtype).to(base.device)
            total = len(sampler.timesteps) * request.num_images
            for timestep in sampler.timesteps:
                predicted = _predict(base, sampler, latents, timestep, text, grid, resolved.guidance)
                latents = sampler.step(predicted, timestep, latents)
                if base.device.type == "cuda":
                    torch.cuda.synchronize(
                        base.device
                    )  # so that a step is reported, and can be stopped, when it is done
                done += 1
                yield Step(done, total)

            yield Phase("decoding")
            base.place(architecture.autoencoder)
            pixels = architecture.decode_picture(parts, latents, grid)
            yield Picture(index, seed, (pixels[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _predict(
    base: Base,
    sampler: Sampler,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    text: Text,
    grid: Grid,
    guidance: float,
) -> torch.Tensor:
    """Return the denoiser's prediction for latents (1, …).

    Two rows of text mean classifier-free guidance (arXiv 2207.12598), away from the prediction for the first row, the
    negative prompt. Both go through the denoiser in one batch, so that a step is one pass.
    """
    architecture, parts, rows = base.architecture, base.parts, len(text.tokens)
    scaled, time = architecture.denoiser_input(sampler, latents, timestep)
    predicted = architecture.predict(parts, torch.cat([scaled] * rows), time.expand(rows), text, grid, guidance)
    if rows == 1:
        return predicted
    negative, positive = predicted.chunk(2)
    return negative + guidance * (positive - negative)


def resolve(base: Base, request: PictureRequest) -> Resolved:
    """Fill in the base's defaults. Raises BadInput for a request that cannot be drawn."""
    architecture, parts = base.architecture, base.parts
    defaults, token_px = architecture.picture_defaults(parts), architecture.token_px(parts)
    width = defaults.width if request.width is None else request.width
    height = defaults.height if request.height is None else request.height
    steps = defaults.steps if request.steps is None else request.steps
    guidance = defaults.guidance if request.guidance is None else request.guidance
    if min(width, height) < token_px:
        raise BadInput(f"width and height must be at least {token_px} pixels, not {width} x {height}")
    if steps < 1 or request.num_images < 1:
        raise BadInput(f"steps and num_images must be at least 1, not {steps} and {request.num_images}")
    if not all(math.isfinite(number) for number in (guidance, *(lora.scale for lora in request.loras))):
        raise BadInput("guidance and LoRA scales must be finite numbers")
    return Resolved(
        width=width // token_px * token_px,
        height=height // token_px * token_px,
        steps=steps,
        guidance=guidance,
        negative_prompt_used=bool(request.negative_prompt) and architecture.uses_cfg(parts, guidance),
        prompt_cut_by=architecture.cut_encoders(parts, request.prompt),
    )

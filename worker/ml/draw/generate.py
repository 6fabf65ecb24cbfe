"""Pictures from a prompt, a base, LoRAs and guides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from worker.ml.adapters import attach
from worker.ml.adapters.names import Pair
from worker.ml.draw.denoise import Scene, Step, denoise, prepare
from worker.ml.draw.finite import check_pixels
from worker.ml.draw.steps import check_window, planned_steps, sampler_named
from worker.ml.errors import BadInput
from worker.ml.families.lora import load_fitting
from worker.ml.guides.maps import has_shape
from worker.ml.memory import Plan
from worker.ml.models import Base
from worker.ml.phases import Phase, Underway
from worker.ml.protocol import Condition, GuideUse, Pixels, ReadsEarlierLayers, Sampling, Side
from worker.ml.quantise.forms import take_forms
from worker.ml.unread_words import with_words_read


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
    guides: tuple[GuideUse, ...] = ()
    sampler: str | None = None
    """By its name, such as euler_a or "DPM++ 2M Karras"; None is the one of the base's folder."""
    clip_skip: int | None = None
    """The layer of the text encoder that is read, counted from the last, which is 1; None is the family's."""
    trigger_words: tuple[str, ...] = ()
    """Put first where an encoder would not read them in the prompt."""


@dataclass(frozen=True)
class Resolved:
    """The settings of a drawing, with the base's defaults filled in."""

    width: int  # the requested one, rounded down to a multiple of the base's token size
    height: int
    steps: int
    guidance: float
    negative_prompt_used: bool
    prompt_cut_by: tuple[str, ...]  # the encoders that read only the beginning of the prompt
    padded_controls: tuple[str, ...] = ()  # kinds of control pictures of another shape, which got black borders
    sampler: str | None = None  # None: the one of the base's folder
    clip_skip: int | None = None


@dataclass(frozen=True)
class Picture:
    index: int
    seed: int
    pixels: Pixels


@torch.no_grad()
def generate(base: Base, request: PictureRequest) -> Iterator[Resolved | Plan | Phase | Underway | Step | Picture]:
    """Draw `num_images` pictures, image i with seed + i modulo 2³². To stop, stop iterating: the base stays unchanged.

    Parts that take turns on the device are placed once: all prompts are encoded first, then all pictures are denoised,
    then all are decoded. Raises BadInput (the request) and ModelUnreadable (a LoRA) before the first step; during one,
    BadInput for a LoRA, and NotFinite for a base or a guide, whose numbers are not finite.
    """
    resolved = resolve(base, request)
    yield resolved
    family, parts = base.family, base.parts
    token_px = family.token_px(parts)
    grid = (resolved.height // token_px, resolved.width // token_px)
    sampling = Sampling(grid, resolved.steps, resolved.sampler)

    if request.loras:
        yield Phase("loading LoRAs")
    loras = [(load_fitting(use.path, family.name, base.denoiser), use.scale) for use in request.loras]
    against = family.uses_negative_prompt(parts, resolved.guidance)
    guides = [use for use in request.guides if use.scale != 0]
    besides = _lora_bytes(base, loras) + sum(use.guide.working_bytes(base, use, grid) for use in guides)
    working = family.working_bytes(parts, grid, rows=2 if against else 1)
    plan = base.plan({**working, family.denoiser: working[family.denoiser] + besides})
    yield plan
    yield from take_forms(base, plan.forms)
    yield Phase("reading the prompt")
    base.place(*family.encoders)
    prompts: dict[Side, str] = {"wanted": with_words_read(base, request.prompt, request.trigger_words)}
    if against:
        prompts["against"] = request.negative_prompt or ""
    text = {side: _encoded(base, prompt, side, resolved.clip_skip) for side, prompt in prompts.items()}

    # A picture's seed can be requested in its turn: the column that holds it has 32 bits.
    seeds = [(request.seed + index) % 2**32 for index in range(request.num_images)]
    states = [prepare(base, guides, grid, seed) for seed in seeds]  # first, as it may need other parts

    yield Phase("drawing", stepwise=True)
    base.place(family.denoiser)
    named = [(use.path.name, use.scale) for use in request.loras]
    scene = Scene(base, text, sampling, resolved.guidance, guides, states, named)
    latents = []
    with ExitStack() as in_use:
        in_use.enter_context(attach.attached(base.denoiser, loras))
        for use in guides:
            in_use.enter_context(use.guide.attach(base))
        for index, seed in enumerate(seeds):
            latents.append((yield from denoise(scene, index, seed)))

    yield Phase("decoding")
    base.place(family.autoencoder)
    decode = partial(family.decode_picture, parts, grid=grid)
    for index, seed in enumerate(seeds):
        pixels = decode(latents[index])
        check_pixels(base, pixels, latents[index], named, decode)
        yield Picture(index, seed, (pixels[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _encoded(base: Base, prompt: str, side: Side, clip_skip: int | None) -> Condition:
    """Return the condition of one prompt. Raises BadInput for layers that the encoder does not have."""
    family, parts = base.family, base.parts
    if clip_skip is None:
        condition: Condition = family.encode_prompts(parts, [prompt], base.device, side)
        return condition
    if not isinstance(family, ReadsEarlierLayers):
        raise BadInput(f"clip_skip: {family.name} reads fixed layers of its text encoder: leave it out")
    earlier: Condition = family.encode_prompts_at(parts, [prompt], base.device, side, clip_skip)
    return earlier


def _lora_bytes(base: Base, loras: Sequence[tuple[Mapping[str, Pair], float]]) -> int:
    """Return the size of attached LoRAs, which are in the denoiser's precision."""
    weights = sum(weights.numel() for layers, _ in loras for pair in layers.values() for weights in pair)
    return weights * base.dtype.itemsize


def resolve(base: Base, request: PictureRequest) -> Resolved:
    """Fill in the base's defaults. Raises BadInput for a request that cannot be drawn."""
    family, parts = base.family, base.parts
    defaults, token_px = family.picture_defaults(parts), family.token_px(parts)
    width = defaults.width if request.width is None else request.width
    height = defaults.height if request.height is None else request.height
    steps = defaults.steps if request.steps is None else request.steps
    guidance = defaults.guidance if request.guidance is None else request.guidance
    if min(width, height) < token_px:
        raise BadInput(f"width and height must be at least {token_px} pixels, not {width} x {height}")
    if steps < 1 or request.num_images < 1:
        raise BadInput(f"steps and num_images must be at least 1, not {steps} and {request.num_images}")
    scales = [*(use.scale for use in request.loras), *(use.scale for use in request.guides)]
    if not all(math.isfinite(number) for number in (guidance, *scales)):
        raise BadInput("guidance and the scales of LoRAs and guides must be finite numbers")
    width, height = width // token_px * token_px, height // token_px * token_px
    sampler = sampler_named(base, request.sampler)
    sampling = Sampling((height // token_px, width // token_px), steps, sampler)
    planned = planned_steps(base, sampling, [use for use in request.guides if use.scale != 0])
    for use in request.guides:
        check_window(use, planned)
    return Resolved(
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        negative_prompt_used=bool(request.negative_prompt) and family.uses_negative_prompt(parts, guidance),
        prompt_cut_by=family.cut_encoders(parts, request.prompt),
        sampler=sampler,
        clip_skip=request.clip_skip,
        padded_controls=tuple(
            use.kind
            for use in request.guides
            if use.kind and use.scale != 0 and not all(has_shape(one, width, height) for one in use.pictures)
        ),
    )

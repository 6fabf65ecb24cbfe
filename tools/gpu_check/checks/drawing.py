"""FLUX.1-dev draws at real size: its encoders, its steps with and without a LoRA, its autoencoder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from tools.gpu_check.bench import PROMPT, Bench
from tools.gpu_check.measure import Watermark, drained, ms, timed
from tools.gpu_check.runner import Figures, expect
from tools.gpu_check.trace import Recording
from worker.ml.adapters import attach
from worker.ml.draw.denoise import Scene, denoise
from worker.ml.families.lora import load_fitting
from worker.ml.models import Base
from worker.ml.protocol import Condition, Grid, Sampling, Side

SIDE_PX, TINY_SIDE_PX = 1024, 64
STEPS = 8
TRACED_STEPS = 3
GUIDANCE = 3.5
LORA_RANK = 16


@torch.no_grad()
def encode(bench: Bench) -> Figures:
    """Encode a prompt of the full length, as every prompt is padded to it."""
    base = bench.flux.base
    grid = planned(base, bench.size(SIDE_PX, TINY_SIDE_PX), rows=1)
    base.place(*base.family.encoders)
    base.family.encode_prompts(base.parts, [PROMPT], bench.device)  # warms up
    watermark = Watermark.start(bench.device)
    condition, seconds = timed(bench.device, lambda: base.family.encode_prompts(base.parts, [PROMPT], bench.device))
    estimates = base.family.working_bytes(base.parts, grid, 1)
    figures: Figures = {
        "ms": ms(seconds),
        **watermark.figures(max(estimates.get(name, 0) for name in base.family.encoders)),
    }
    expect(bool(condition.tokens.isfinite().all()), "the encoded prompt is not finite", figures)
    return figures


@torch.no_grad()
def draw(bench: Bench, *, lora: bool) -> Figures:
    """Take 8 steps at 1024 x 1024, and trace three more."""
    base = bench.flux.base
    scene = scene_of(base, bench, bench.size(SIDE_PX, TINY_SIDE_PX), GUIDANCE)
    loras = [(load_fitting(bench.lora(base, LORA_RANK), base.family.name, base.denoiser), 1.0)] if lora else []
    with attach.attached(base.denoiser, loras):
        _, seconds, watermark = stepped(scene(STEPS))
        estimate = base.family.working_bytes(base.parts, scene(STEPS).sampling.grid, 1)[base.family.denoiser]
        figures = watermark.figures(estimate)
        with Recording(bench.device) as recording:
            drained(denoise(scene(TRACED_STEPS), 0, seed=2))
    return {
        "ms_a_step": ms(statistics.median(seconds[1:])),
        "gpu_busy_share": recording.trace.busy_share,
        "attention_kernel": recording.trace.attention_kernel,
        **figures,
    }


@torch.no_grad()
def attach_lora(bench: Bench) -> Figures:
    """Read a LoRA of rank 16, attach it to the transformer on the device, and take it off."""
    base = bench.flux.base
    planned(base, bench.size(SIDE_PX, TINY_SIDE_PX), rows=1)
    base.place(base.family.denoiser)
    path = bench.lora(base, LORA_RANK)
    layers, read_s = timed(bench.device, lambda: load_fitting(path, base.family.name, base.denoiser))
    attached = attach.attached(base.denoiser, [(layers, 1.0)])
    _, attach_s = timed(bench.device, attached.__enter__)
    _, detach_s = timed(bench.device, lambda: attached.__exit__(None, None, None))
    return {
        "layers": len(layers),
        "read_seconds": round(read_s, 3),
        "attach_seconds": round(attach_s, 3),
        "detach_seconds": round(detach_s, 3),
    }


@torch.no_grad()
def decode(bench: Bench, side_px: int) -> Figures:
    """Decode one picture of this size."""
    base = bench.flux.base
    grid = planned(base, bench.size(side_px, side_px // 16), rows=1)
    base.place(base.family.autoencoder)
    generator = torch.Generator("cpu").manual_seed(3)
    sampler = base.family.sampler(base.parts, Sampling(grid, STEPS), bench.device, generator)
    latents = base.family.first_noise(base.parts, sampler, grid, generator, base.dtype).to(bench.device)
    base.family.decode_picture(base.parts, latents, grid)  # warms up
    watermark = Watermark.start(bench.device)
    pixels, seconds = timed(bench.device, lambda: base.family.decode_picture(base.parts, latents, grid))
    estimate = base.family.working_bytes(base.parts, grid, 1)[base.family.autoencoder]
    figures: Figures = {"ms": ms(seconds), **watermark.figures(estimate)}
    expect(bool(pixels.isfinite().all()), "the decoded picture is not finite", figures)
    return figures


# -- pieces that the checks of other families share


def planned(base: Base, side_px: int, rows: int) -> Grid:
    """Plan for a square picture as `generate` does, and return its grid."""
    side = side_px // base.family.token_px(base.parts)
    base.plan(base.family.working_bytes(base.parts, (side, side), rows))
    return side, side


def scene_of(base: Base, bench: Bench, side_px: int, guidance: float) -> Callable[[int], Scene]:
    """Encode the prompts and place the denoiser; return what `denoise` takes, for a number of steps."""
    against = base.family.uses_negative_prompt(base.parts, guidance)
    grid = planned(base, side_px, rows=2 if against else 1)
    prompts: dict[Side, str] = {"wanted": PROMPT}
    if against:
        prompts["against"] = ""
    base.place(*base.family.encoders)
    text: dict[Side, Condition] = {
        side: base.family.encode_prompts(base.parts, [prompt], bench.device, side) for side, prompt in prompts.items()
    }
    base.place(base.family.denoiser)
    return lambda steps: Scene(base, text, Sampling(grid, steps), guidance, guides=(), states=[()])


def stepped(scene: Scene) -> tuple[torch.Tensor, list[float], Watermark]:
    """Draw, and return the latents and the seconds of each step; the first warms up, and memory counts from there."""
    device = scene.base.device
    drawing, seconds = denoise(scene, 0, seed=1), list[float]()
    watermark, last = Watermark.start(device), time.perf_counter()
    while True:
        try:
            next(drawing)
        except StopIteration as end:
            return end.value, seconds, watermark
        seconds.append(time.perf_counter() - last)
        if len(seconds) == 1:
            watermark = Watermark.start(device)
        last = time.perf_counter()

"""FLUX.1-dev with its transformer in int8 and nf4: making the form, drawing with a LoRA, and training."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tools.gpu_check.bench import Bench
from tools.gpu_check.checks import training
from tools.gpu_check.checks.drawing import GUIDANCE, LORA_RANK, SIDE_PX, STEPS, TINY_SIDE_PX, scene_of, stepped
from tools.gpu_check.checks.flux_memory import BLOCK_BYTES, TOLERANCE
from tools.gpu_check.measure import Watermark, gib, ms, timed
from tools.gpu_check.runner import Figures, expect
from worker.ml.adapters import attach
from worker.ml.families.lora import load_fitting
from worker.ml.memory import PLAIN
from worker.ml.models import Base

WIDE_COPIES = 8
"""Of the largest layer, in the device's precision: quantising one takes float32 copies of it."""


@contextmanager
def in_form(bench: Bench, form: str) -> Iterator[Base]:
    """Yield FLUX.1-dev as a base that has only this form, with all of its parts in host memory."""
    plain = bench.flux.base
    plain.to_host()
    base = Base(plain.folder, plain.family, plain.parts, plain.device, plain.dtype, (form,))
    try:
        yield base
    finally:
        for part in base.offered:
            base.use(part, PLAIN)
        base.to_host()


def make(bench: Bench, form: str) -> Figures:
    """Quantise the transformer, a layer at a time, and place it; its size beside the computed one."""
    with in_form(bench, form) as base:
        computed, wide = base.denoiser_bytes(form)
        watermark = Watermark.start(bench.device)
        _, make_s = timed(bench.device, lambda: base.use(base.family.denoiser, form))
        making = watermark.figures(WIDE_COPIES * wide)
        before = _allocated(bench)
        _, place_s = timed(bench.device, lambda: base.place(base.family.denoiser, alone=True))
        taken = _allocated(bench) - before
        tensors = len(base.denoiser.state_dict())
    figures: Figures = {
        "make_seconds": round(make_s, 2),
        "place_seconds": round(place_s, 3),
        "transformer_gib": gib(taken),
        "transformer_computed_gib": gib(computed),
        **making,
    }
    if bench.device.type == "cuda":
        close = abs(taken - computed) <= TOLERANCE * computed + BLOCK_BYTES * tensors
        expect(close, "the transformer has another size than computed", figures)
        within = figures["working_gib"] <= figures["working_estimate_gib"]
        expect(within, "quantising had more than one layer on the device", figures)
    return figures


@torch.no_grad()
def draw(bench: Bench, form: str) -> Figures:
    """Take 8 steps at 1024 x 1024 with a LoRA attached, and compare the latents with those of the plain transformer."""
    side_px = bench.size(SIDE_PX, TINY_SIDE_PX)
    theirs, _, _ = _drawn(bench.flux.base, bench, side_px)
    with in_form(bench, form) as base:
        base.use(base.family.denoiser, form)
        ours, seconds, watermark = _drawn(base, bench, side_px)
        side = side_px // base.family.token_px(base.parts)
        work = base.family.working_bytes(base.parts, (side, side), 1)[base.family.denoiser]
        figures: Figures = {
            "ms_a_step": ms(statistics.median(seconds[1:])),
            "relative_difference": float((ours - theirs).norm() / theirs.norm()),
            **watermark.figures(work + base.denoiser_bytes(form)[1]),
        }
    expect(bool(ours.isfinite().all()), "the latents are not finite", figures)
    return figures


def _drawn(base: Base, bench: Bench, side_px: int) -> tuple[torch.Tensor, list[float], Watermark]:
    layers = load_fitting(bench.lora(base, LORA_RANK), base.family.name, base.denoiser)
    scene = scene_of(base, bench, side_px, GUIDANCE)
    with attach.attached(base.denoiser, [(layers, 1.0)]):
        return stepped(scene(STEPS))


def train(bench: Bench, form: str, resolution: int) -> Figures:
    """Train for 12 steps with gradient checkpointing; see `training.steps`."""
    with in_form(bench, form) as base:
        return training.steps(bench, base, resolution, checkpointed=True)


def _allocated(bench: Bench) -> int:
    return torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else 0

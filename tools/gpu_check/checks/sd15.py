"""Stable Diffusion 1.5 at real size: what each precision loses, a LoRA, and batches."""

from __future__ import annotations

import gc
import statistics

import torch

from tools.gpu_check.bench import Bench
from tools.gpu_check.checks import training
from tools.gpu_check.checks.drawing import LORA_RANK, scene_of, stepped
from tools.gpu_check.measure import ms, rms
from tools.gpu_check.runner import Figures, expect
from worker.ml import models
from worker.ml.adapters import attach
from worker.ml.families.lora import load_fitting

SIDE_PX, TINY_SIDE_PX = 512, 32
STEPS, TINY_STEPS = 10, 3
GUIDANCE = 7.5
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def precision(bench: Bench) -> Figures:
    """Draw the same latents in each precision; how far the short ones are from float32, relative to its size."""
    drawn: dict[str, torch.Tensor] = {}
    figures: Figures = {}
    for dtype in PRECISIONS:
        base = models.load(bench.sd15, bench.device.type, dtype)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 is as coarse as float16
            scene = scene_of(base, bench, _side(bench), GUIDANCE)(bench.size(STEPS, TINY_STEPS))
            latents, seconds, watermark = stepped(scene)
        name = str(dtype).removeprefix("torch.")
        drawn[name] = latents.float()
        figures[f"{name}_ms_a_step"] = ms(statistics.median(seconds[1:]))
        figures[f"{name}_peak_allocated_gib"] = watermark.figures(0)["peak_allocated_gib"]
        base.to_host()
        del base
        gc.collect()
    exact = drawn.pop("float32")
    distances = {name: rms(latents - exact) / rms(exact) for name, latents in drawn.items()}
    figures |= {f"{name}_relative_rms": distance for name, distance in distances.items()}
    expect(all(bool(latents.isfinite().all()) for latents in (exact, *drawn.values())), "not finite", figures)
    expect(distances["float16"] < distances["bfloat16"], "float16 is farther from float32 than bfloat16", figures)
    return figures


@torch.no_grad()
def lora(bench: Bench) -> Figures:
    """Draw with a LoRA of rank 16 attached and without, in the device's own precision."""
    base = models.load(bench.sd15, bench.device.type)
    scene = scene_of(base, bench, _side(bench), GUIDANCE)
    layers = load_fitting(bench.lora(base, LORA_RANK), base.family.name, base.denoiser)
    plain, seconds, _ = stepped(scene(STEPS))
    with attach.attached(base.denoiser, [(layers, 1.0)]):
        changed, with_lora, watermark = stepped(scene(STEPS))
    estimate = base.family.working_bytes(base.parts, scene(STEPS).sampling.grid, 2)[base.family.denoiser]
    figures: Figures = {
        "ms_a_step": ms(statistics.median(seconds[1:])),
        "with_lora_ms_a_step": ms(statistics.median(with_lora[1:])),
        **watermark.figures(estimate),
    }
    expect(bool(changed.isfinite().all()), "not finite", figures)
    expect(not torch.equal(plain, changed), "the LoRA does not change the picture", figures)
    return figures


def train(bench: Bench, batch_size: int) -> Figures:
    """Train for 12 steps at 512 x 512; see `training.steps`."""
    return training.steps(bench, models.load(bench.sd15, bench.device.type), SIDE_PX, batch_size=batch_size)


def _side(bench: Bench) -> int:
    return bench.size(SIDE_PX, TINY_SIDE_PX)

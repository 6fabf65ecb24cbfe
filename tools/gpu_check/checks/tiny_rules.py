"""The rules of drawing and training, held on this device by the tiny base of each family: they hold or they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tools.gpu_check.bench import Bench
from tools.gpu_check.checks.training import lora_config
from tools.gpu_check.measure import drained, pixels_of, plan_of, reported_free
from tools.gpu_check.runner import Figures, expect
from worker.demo.held_out_loss import held_out_loss
from worker.ml import models
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.memory import PLAIN
from worker.ml.networks import real_esrgan
from worker.ml.networks.tiny import build_tiny
from worker.ml.train.train_lora import Checkpoint, Run, train

REQUEST = PictureRequest("a photo", negative_prompt=None, width=64, height=96, steps=4, guidance=3.5, seed=1)
SIZE_PX = 64
HALF, TINY_HALF = 5, 2
"""Steps before the training is interrupted, and after."""
NEAR = 0.02
"""How far a resumed training may end from the uninterrupted one, where the device adds up in no fixed order."""


def same_seed(bench: Bench, family: str) -> Figures:
    """The same seed draws the same bits, and so does a base whose parts take turns on the device."""
    base = models.load(bench.tiny_base(family), forms=(PLAIN,))
    first, second = (pixels_of(generate(base, REQUEST)) for _ in range(2))
    base.to_host()
    with reported_free(lambda: 0):
        events = list(generate(base, REQUEST))
    offloaded = pixels_of(events)
    figures: Figures = {
        "same_seed_bit_equal": bool(np.array_equal(first, second)),
        "offloaded_bit_equal": bool(np.array_equal(first, offloaded)),
        "plan": plan_of(base, events),
    }
    expect(figures["same_seed_bit_equal"], "the same seed drew another picture", figures)
    expect(figures["offloaded_bit_equal"], "parts that take turns drew another picture", figures)
    return figures


def resume(bench: Bench, family: str) -> Figures:
    """A resumed training ends where the uninterrupted one does: bit for bit on a CPU, nearly on a GPU."""
    base, photos = models.load(bench.tiny_base(family)), bench.photos(6, 96)
    half = bench.size(HALF, TINY_HALF)
    config = lora_config(SIZE_PX, steps=2 * half, rank=4, learning_rate=5e-3, batch_size=2)
    workdir = _emptied(bench.folder / f"resume-{family}")
    run = train(base, photos, config, Run(workdir, checkpoint_every_s=0))
    checkpoint = next(event for event in run if isinstance(event, Checkpoint) and event.step == half)
    kept = checkpoint.path.rename(workdir / "kept.safetensors")
    run.close()
    whole = drained(train(base, photos, config, Run(workdir)))
    resumed = drained(train(base, photos, config, Run(workdir, resume_from=kept)))
    figures: Figures = {
        "bit_equal": resumed.sha256 == whole.sha256,
        "loss": whole.final_loss,
        "resumed_loss": resumed.final_loss,
    }
    expect(bench.device.type == "cuda" or figures["bit_equal"], "the resumed LoRA has other bits", figures)
    apart = abs(resumed.final_loss / whole.final_loss - 1)
    expect(apart <= NEAR, f"the resumed training ended {apart:.1%} apart", figures)
    return figures


def learn(bench: Bench, family: str) -> Figures:
    """A training leaves the denoiser alone on the device, and a LoRA that lowers the held-out loss and draws."""
    base, photos = models.load(bench.tiny_base(family)), bench.photos(6, 96, class_caption="a photo of a person")
    config = lora_config(SIZE_PX, steps=30, rank=8, learning_rate=5e-3, batch_size=2, preservation=0.25)
    workdir = _emptied(bench.folder / f"learn-{family}")
    trained = drained(train(base, photos, config, Run(workdir)))
    left = [
        name for name, part in base.family.modules(base.parts).items() if next(part.parameters()).device.type == "cuda"
    ]
    before, after = (held_out_loss(base, photos[:3], lora, resolution=SIZE_PX) for lora in (None, trained.path))
    without, with_it = (
        pixels_of(generate(base, replace(REQUEST, loras=loras))) for loras in ((), (LoraUse(trained.path),))
    )
    figures: Figures = {
        "held_out_loss": before,
        "held_out_loss_with_lora": after,
        "picture_difference_max": int(np.abs(without.astype(int) - with_it).max()),
        "on_device_after_training": left,
    }
    expect(after < before, "the LoRA does not lower the held-out loss", figures)
    expect(figures["picture_difference_max"] > 20, "the LoRA does not show in the picture", figures)
    alone = [base.family.denoiser] if bench.device.type == "cuda" else []
    expect(left == alone, "other parts than the denoiser are on the device", figures)
    return figures


def upscaler_agrees(bench: Bench) -> Figures:
    """The upscaler enlarges as it does on a CPU, but for float16's rounding."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    weights = bench.folder / "tiny-upscaler.safetensors"
    build_tiny(weights, scale=4)
    here, on_cpu = (
        drained(real_esrgan.load(weights, device=device).upscale(pixels)) for device in (bench.device.type, "cpu")
    )
    figures: Figures = {"difference_max": int(np.abs(here.astype(int) - on_cpu).max())}
    expect(figures["difference_max"] <= 3, "the device enlarges another picture than a CPU", figures)
    return figures


def _emptied(folder: Path) -> Path:
    """Return a folder without checkpoints of an earlier run."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder

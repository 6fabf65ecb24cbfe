"""Training steps at real size: how long, what the CPU adds, how much memory, and that losses are finite."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.gpu_check.bench import Bench
from tools.gpu_check.measure import Watermark, ms
from tools.gpu_check.runner import Figures, expect
from tools.gpu_check.trace import Recording, Trace
from worker.ml.models import Base
from worker.ml.phases import Phase
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import LoraConfig, Run, Step, train

STEPS, TINY_STEPS = 12, 4
TIMED, TINY_TIMED = range(3, 10), range(2, 4)
"""Steps, from 1, of which the time counts: the ones before warm up, and those after are traced."""
PHOTOS = 4
RANK = 16
UNLESS_GIVEN = {"rank": RANK, "learning_rate": 1e-4, "batch_size": 1, "caption_dropout": 0.05, "preservation": 0.0}


def lora_config(resolution: int, **settings: Any) -> LoraConfig:
    """Return settings of a training; UNLESS_GIVEN has those that a check does not care about."""
    return LoraConfig(**UNLESS_GIVEN | {"resolutions": (resolution,)} | settings)


def flux(bench: Bench, resolution: int, **case: Any) -> Figures:
    """Train FLUX.1-dev for 12 steps; see `steps`."""
    return steps(bench, bench.flux.base, resolution, **case)


def steps(
    bench: Bench,
    base: Base,
    resolution: int,
    *,
    batch_size: int = 1,
    checkpointed: bool = False,
    preserved: bool = False,
) -> Figures:
    """Train for 12 steps at this resolution, and return time and memory a step.

    `checkpointed` turns gradient checkpointing on, whether memory needs it or not. `preserved` trains every sample with
    the base's own prediction as its target, which costs a second forward pass.
    """
    resolution = bench.size(resolution, resolution // 16)
    photos = bench.photos(PHOTOS, bench.size(1152, 96), "a photo of a person" if preserved else None)
    count, timed = (TINY_STEPS, TINY_TIMED) if bench.tiny else (STEPS, TIMED)
    config = lora_config(resolution, steps=count, batch_size=batch_size, preservation=float(preserved))
    if checkpointed:
        base.denoiser.enable_gradient_checkpointing()
    ran = _run(base, photos, config, bench.folder, timed.stop)
    side = resolution // base.family.token_px(base.parts)
    kept = base.family.checkpointed_share if ran.checkpointing else 1.0
    estimate = int(kept * base.family.activation_bytes(base.parts, (side, side), batch_size))
    figures: Figures = {
        "ms_a_step": ms(statistics.median(ran.seconds[step] for step in timed)),
        **ran.trace.cpu_figures(count - timed.stop + 1),
        "gpu_busy_share": ran.trace.busy_share,
        "attention_kernel": ran.trace.attention_kernel,
        "checkpointing": ran.checkpointing,
        **ran.watermark.figures(estimate),
        "loss_first": ran.losses[0],
        "loss_last": ran.losses[-1],
    }
    expect(all(math.isfinite(loss) for loss in ran.losses), "a loss is not finite", figures)
    return figures


@dataclass(frozen=True)
class _Ran:
    """What was seen of a training."""

    seconds: Mapping[int, float]  # by step, from 1
    losses: Sequence[float]
    checkpointing: bool
    watermark: Watermark  # from the first step on
    trace: Trace  # of the steps from `traced_from` on


def _run(base: Base, photos: Sequence[Photo], config: LoraConfig, workdir: Path, traced_from: int) -> _Ran:
    seconds, losses, checkpointing = dict[int, float](), list[float](), False
    recording, watermark, last = Recording(base.device), Watermark.start(base.device), time.perf_counter()
    with closing(train(base, photos, config, Run(workdir))) as training, ExitStack() as recorded:
        for event in training:
            if isinstance(event, Phase) and event.name == "training":
                watermark, last = Watermark.start(base.device), time.perf_counter()
            elif isinstance(event, Step):
                seconds[event.index] = time.perf_counter() - last
                losses.append(event.loss)
                checkpointing = base.denoiser.is_gradient_checkpointing
                if event.index == traced_from - 1:
                    recorded.enter_context(recording)
                if event.index == config.steps:
                    recorded.close()
                last = time.perf_counter()
    return _Ran(seconds, losses, checkpointing, watermark, recording.trace)

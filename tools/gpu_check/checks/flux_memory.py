"""What FLUX.1-dev needs: its parts built and planned, on smaller devices, and moved to the device and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tools.gpu_check.bench import Bench
from tools.gpu_check.checks.drawing import SIDE_PX, TINY_SIDE_PX
from tools.gpu_check.checks.training import PHOTOS, lora_config
from tools.gpu_check.measure import device_limited_to, drained, gib, host_memory, plan_of, timed
from tools.gpu_check.runner import Figures, expect
from worker.gpu.failures import failure
from worker.ml import models
from worker.ml.draw.generate import PictureRequest, generate
from worker.ml.masters import Masters
from worker.ml.memory import GIB
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import LoraConfig, Run, TrainedLora, train

TOLERANCE = 0.01
"""How far what torch allocates for a part may be from what its configuration says: blocks are rounded up."""
BLOCK_BYTES = 512
"""To which torch rounds up each tensor, which matters for tiny ones."""

SMALLEST_GIB, LARGEST_GIB = 12, 32
"""Of the limits."""
TINY_SHARE = 1 / 64
"""Of the limits, for a tiny base: some parts take turns then too."""


def build(bench: Bench) -> Figures:
    """Build each part on the device; what it takes there, beside what its configuration says."""
    figures: Figures = {}
    odd = []
    for name, part in bench.flux.parts.items():
        figures |= {
            f"{name}_gib": gib(part.device_bytes),
            f"{name}_computed_gib": gib(part.computed_bytes),
            f"{name}_build_seconds": round(part.seconds, 3),
        }
        tensors = len(list(bench.flux.base.family.modules(bench.flux.base.parts)[name].state_dict()))
        if abs(part.device_bytes - part.computed_bytes) > TOLERANCE * part.computed_bytes + BLOCK_BYTES * tensors:
            odd.append(name)
    expect(not odd, f"other sizes than computed: {', '.join(odd)}", figures)
    return figures


def plan(bench: Bench) -> Figures:
    """Plan a picture of 1024 x 1024 on the whole device."""
    base = bench.flux.base
    side = bench.size(SIDE_PX, TINY_SIDE_PX) // base.family.token_px(base.parts)
    planned_parts = base.plan(base.family.working_bytes(base.parts, (side, side), 1))
    return {
        "plan": planned_parts.describe(base.computes_in),
        "stay": sorted(planned_parts.stay),
        "needed_gib": gib(planned_parts.needed_bytes),
        "free_gib": None if planned_parts.free_bytes is None else gib(planned_parts.free_bytes),
    }


def limited(bench: Bench, limit_gib: float, family: str = "flux") -> Figures:
    """Draw a step at 1024 x 1024 and train two at 512 x 512 on a device of this size.

    What does not fit is no failure of the check, unless the plan promised that it would.
    """
    if bench.tiny and SMALLEST_GIB < limit_gib < LARGEST_GIB:
        return {"skipped": f"at tiny size it is as at {SMALLEST_GIB} GiB"}
    base = (bench.flux if family == "flux" else bench.other(family)).base
    base.to_host()
    side = bench.size(SIDE_PX, TINY_SIDE_PX)
    request = PictureRequest("a photo", None, side, side, steps=1, guidance=3.5, seed=1)
    limit_bytes = int(limit_gib * GIB * (TINY_SHARE if bench.tiny else 1))
    photos = bench.photos(PHOTOS, bench.size(1152, 96))
    with device_limited_to(bench.device, limit_bytes):
        drawing = _draw(base, request)
        training = _train(base, photos, lora_config(bench.size(512, 64), steps=2), bench.folder)
    figures: Figures = {"limit_gib": gib(limit_bytes), **drawing, **training}
    promised = "may not fit" not in figures["drawing_plan"]
    expect(figures["draws"] or not promised, "the plan promised a picture that does not fit", figures)
    return figures


def _draw(base: Base, request: PictureRequest) -> Figures:
    events: list[object] = []  # those before memory runs out too

    def draw() -> None:
        for event in generate(base, request):
            events.append(event)

    said = _outcome(base, "drawing", draw)
    return {"drawing_plan": plan_of(base, events), "draws": said is None, "drawing_said": said}


def _train(base: Base, photos: Sequence[Photo], config: LoraConfig, workdir: Path) -> Figures:
    """Train; a training tells its plan when it is done."""
    trained: list[TrainedLora] = []
    said = _outcome(base, "training", lambda: trained.append(drained(train(base, photos, config, Run(workdir)))))
    return {
        "training_plan": trained[0].memory_plan if trained else None,
        "trains": said is None,
        "training_said": said,
    }


def _outcome(base: Base, phase: str, work: Callable[[], object]) -> str | None:
    """Do the work; return None, or what the user of a job would be told. Raises what is not out of memory."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        failed = failure(error, phase)
        if failed.code != "out_of_memory":
            raise
        return f"{failed.code}: {failed.message}"
    finally:
        base.to_host()
    return None


def move(bench: Bench, part: str) -> Figures:
    """Move a part to the device and back, as plans do; the way back copies nothing."""
    base = bench.flux.base
    base.to_host()
    return _moved(bench, Masters(base.family.modules(base.parts)[part]))


def move_mapped(bench: Bench) -> Figures:
    """Move the U-Net of Stable Diffusion 1.5 and back: its weights are mapped from a file and must remain so."""
    base = models.load(bench.sd15, bench.device.type, dtype=torch.float32)
    figures = _moved(bench, Masters(base.denoiser))
    expect(
        figures["rss_anon_growth_gib"] < figures["gib"] / 2 or bench.tiny,
        "weights that were mapped from a file hold memory of their own after they came back",
        figures,
    )
    return figures


def _moved(bench: Bench, masters: Masters) -> Figures:
    before = host_memory()
    _, there_s = timed(bench.device, lambda: masters.to_device(bench.device))
    _, back_s = timed(bench.device, masters.to_host)
    after = host_memory()
    size = masters.nbytes
    return {
        "gib": gib(size),
        "to_device_gb_per_s": round(size / 1e9 / there_s, 2),
        "to_device_seconds": round(there_s, 4),
        "to_host_seconds": round(back_s, 4),
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        "rss_anon_growth_gib": round(after["rss_anon_gib"] - before["rss_anon_gib"], 3),
    }

"""A process that draws and trains on request, with loaded models: names come on stdin, seconds go out as JSON lines.

    python -m bench.workloads worker|plain FOLDER

`worker` is the GPU half of the tree it runs in, `plain` what a user of diffusers would write. See `pace.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FAMILIES = ("flux", "sd15")
PROMPT = "a photo of ohwx person, wearing a blue shirt, in a park"
WIDTH, HEIGHT, DRAWING_STEPS = 96, 128, 20
GUIDANCE = {"flux": 3.5, "sd15": 7.5}
RESOLUTION, BATCH, RANK, LEARNING_RATE, TRAINING_STEPS = 64, 4, 16, 1e-4, 20
TRAINING = {"rank": RANK, "learning_rate": LEARNING_RATE, "batch_size": BATCH, "caption_dropout": 0.0}

Workload = Callable[[], None]


class Stopwatch:
    """The time of this process between `start` and `stop`."""

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def main(kind: str, folder: Path) -> None:
    watch = Stopwatch()
    torch.set_num_threads(1)
    known: dict[str, Workload] = {}
    for family in FAMILIES:
        known |= {f"{family}, {name}": run for name, run in KINDS[kind](family, folder, watch).items()}
    for line in sys.stdin:
        known[line.strip()]()
        print(json.dumps({"wall": watch.wall, "cpu": watch.cpu}), flush=True)


def worker_workloads(family: str, folder: Path, watch: Stopwatch) -> dict[str, Workload]:
    from bench.release import LoraUse, Photo, PictureRequest, draw, models, training

    base = models.load(folder / f"tiny-{family}", "cpu")
    photos = [Photo(path, PROMPT) for path in sorted(folder.glob("*.jpg"))]

    def drawing(*loras: LoraUse) -> None:
        request = PictureRequest(
            PROMPT, None, WIDTH, HEIGHT, steps=DRAWING_STEPS, guidance=GUIDANCE[family], seed=1, loras=loras
        )
        watch.start()
        draw(base, request)
        watch.stop()

    def steps(preservation: float) -> None:
        events = training(
            base, photos, folder, RESOLUTION, steps=TRAINING_STEPS + 1, preservation=preservation, **TRAINING
        )
        _time_between_steps(events, watch)

    return {
        "drawing": drawing,
        "drawing with a LoRA": lambda: drawing(LoraUse(folder / f"{family}.safetensors")),
        "training": lambda: steps(0.0),
    }


def _time_between_steps(events: Iterator[Any], watch: Stopwatch) -> None:
    """Time from the end of the first step to the end of the last."""
    for event in events:
        if type(event).__name__ == "Step" and event.index == 1:
            watch.start()
        elif type(event).__name__ == "Step" and event.index == event.total:
            watch.stop()


def plain_workloads(family: str, folder: Path, watch: Stopwatch) -> dict[str, Workload]:
    from diffusers import DiffusionPipeline, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipeline = DiffusionPipeline.from_pretrained(folder / f"tiny-{family}", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    settings: dict[str, Any] = {"guidance_scale": GUIDANCE[family]}
    if family == "flux":
        settings["max_sequence_length"] = pipeline.tokenizer_2.model_max_length

    def drawing(lora: Path | None = None) -> None:
        generator = torch.Generator("cpu").manual_seed(1)
        watch.start()
        if lora:
            pipeline.load_lora_weights(lora)
        pipeline(PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=DRAWING_STEPS, generator=generator, **settings)
        if lora:
            pipeline.unload_lora_weights()
        watch.stop()

    return {
        "drawing": drawing,
        "drawing with a LoRA": lambda: drawing(folder / f"{family}.safetensors"),
        "training": lambda: PLAIN_TRAINING[family](pipeline, watch),
    }


def train_plain_flux(pipeline: Any, watch: Stopwatch) -> None:
    from diffusers.training_utils import compute_density_for_timestep_sampling

    from tests.ml import vanilla

    encoded = pipeline.encode_prompt([PROMPT] * BATCH, max_sequence_length=pipeline.tokenizer_2.model_max_length)
    known = SimpleNamespace(
        encode_prompt=lambda *_, **__: encoded,
        tokenizer_2=pipeline.tokenizer_2,
        transformer=pipeline.transformer,
        vae_scale_factor=pipeline.vae_scale_factor,
        _prepare_latent_image_ids=pipeline._prepare_latent_image_ids,
    )
    latents = torch.randn(BATCH, 16, RESOLUTION // 8, RESOLUTION // 8)

    def loss() -> torch.Tensor:
        sigma = compute_density_for_timestep_sampling("logit_normal", BATCH, logit_mean=0.0, logit_std=1.0)
        return vanilla.flux_loss(known, latents, torch.randn_like(latents), sigma, [PROMPT] * BATCH)

    _train_plain(pipeline, "flux", loss, watch)


def train_plain_sd15(pipeline: Any, watch: Stopwatch) -> None:
    from diffusers import DDPMScheduler

    from tests.ml import vanilla

    tokens, _ = pipeline.encode_prompt([PROMPT] * BATCH, "cpu", 1, do_classifier_free_guidance=False)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    vanilla.DDPMScheduler = SimpleNamespace(from_config=lambda _: schedule)  # the script makes it once, too
    known = SimpleNamespace(
        scheduler=pipeline.scheduler,
        tokenizer=_Tokenized(),
        text_encoder=lambda *_, **__: (tokens,),
        unet=pipeline.unet,
    )
    latents = torch.randn(BATCH, 4, RESOLUTION // 8, RESOLUTION // 8)

    def loss() -> torch.Tensor:
        times = torch.randint(0, 1000, (BATCH,))
        return vanilla.stable_diffusion_loss(known, latents, torch.randn_like(latents), times, [PROMPT] * BATCH)

    _train_plain(pipeline, "sd15", loss, watch)


class _Tokenized:
    """A tokenizer whose answer was kept: the worker encodes each caption once, so the plain recipe shall too."""

    model_max_length = 77

    def __call__(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(input_ids=None)


def _train_plain(pipeline: Any, family: str, loss: Callable[[], torch.Tensor], watch: Stopwatch) -> None:
    """Train a LoRA on the layers that the worker trains, so that both compute the same."""
    from worker.ml.families.registry import FAMILIES as ALL

    with ALL[family].new_lora(pipeline, RANK, torch.Generator()) as lora:
        weights = [*lora.values()]
        optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4, fused=True)
        for step in range(TRAINING_STEPS + 1):
            value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value.item()
            if step == 0:
                watch.start()
        watch.stop()


KINDS = {"worker": worker_workloads, "plain": plain_workloads}
PLAIN_TRAINING = {"flux": train_plain_flux, "sd15": train_plain_sd15}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""The same rules on a CUDA device, for each family. Skipped if there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ml.runs import finish, lora_config, pictures
from worker.demo.held_out_loss import held_out_loss
from worker.ml import memory, models
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.memory import Plan
from worker.ml.models import Base
from worker.ml.networks import real_esrgan
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Checkpoint, Run, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
REQUEST = PictureRequest("a photo", negative_prompt=None, width=64, height=96, steps=4, guidance=3.5, seed=1)
CONFIG = lora_config(steps=30, rank=8, learning_rate=5e-3, resolution=64, batch_size=4)


@pytest.fixture(scope="module")
def on_gpu(tiny_base: Path) -> Base:
    return models.load(tiny_base)


def devices(base: Base) -> dict[str, str]:
    return {name: next(m.parameters()).device.type for name, m in base.family.modules(base.parts).items()}


def test_a_base_is_loaded_in_bfloat16_and_describes_its_plan(on_gpu: Base) -> None:
    assert (on_gpu.device.type, on_gpu.dtype) == ("cuda", torch.bfloat16)
    (plan,) = [event for event in generate(on_gpu, REQUEST) if isinstance(event, Plan)]
    assert plan.describe(on_gpu.computes_in).startswith("full, cuda, bfloat16: needs ")


def test_an_offloaded_base_draws_the_same_picture_with_one_part_at_a_time(
    on_gpu: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    (full,) = pictures(generate(on_gpu, REQUEST))
    monkeypatch.setattr(memory, "free_device_bytes", lambda _: 0)
    monkeypatch.setattr(on_gpu, "offered", {part: [memory.PLAIN] for part in on_gpu.offered})
    (same,) = pictures(generate(on_gpu, REQUEST))
    np.testing.assert_array_equal(same, full)
    assert [name for name, device in devices(on_gpu).items() if device == "cuda"] == ["vae"]


def test_a_streamed_denoiser_draws_the_same_picture(
    on_gpu: Base, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each block copied on a stream of its own while the one before computes."""
    (whole,) = pictures(generate(on_gpu, REQUEST))
    streamed = models.load(tiny_base, forms=("streamed plain",))
    monkeypatch.setattr(memory, "free_device_bytes", lambda _: 0)
    (same,) = pictures(generate(streamed, REQUEST))
    np.testing.assert_array_equal(same, whole)


def test_a_training_frees_the_encoders_and_its_lora_draws(on_gpu: Base, photos: list[Photo], tmp_path: Path) -> None:
    of_a_class = [replace(photo, class_caption="a photo of a person") for photo in photos]
    trained = finish(train(on_gpu, of_a_class, CONFIG, Run(tmp_path)))
    assert [name for name, device in devices(on_gpu).items() if device == "cuda"] == [on_gpu.family.denoiser]
    assert trained.peak_gib is not None
    losses = [held_out_loss(on_gpu, photos[:3], lora, resolution=64) for lora in (None, trained.path)]
    assert losses[1] < losses[0]
    (without,), (with_it,) = (
        pictures(generate(on_gpu, replace(REQUEST, loras=loras))) for loras in ((), (LoraUse(trained.path),))
    )
    assert np.abs(without.astype(int) - with_it).max() > 20


def test_a_resumed_training_ends_near_the_uninterrupted_one(on_gpu: Base, photos: list[Photo], tmp_path: Path) -> None:
    run = train(on_gpu, photos, CONFIG, Run(tmp_path, checkpoint_every_s=0))
    checkpoint = next(event for event in run if isinstance(event, Checkpoint) and event.step == 15)
    run.close()
    whole = finish(train(on_gpu, photos, CONFIG, Run(tmp_path)))
    resumed = finish(train(on_gpu, photos, CONFIG, Run(tmp_path, resume_from=checkpoint.path)))
    assert resumed.final_loss == pytest.approx(whole.final_loss, rel=0.02)


@pytest.mark.parametrize("backend", real_esrgan.BACKENDS)
def test_the_upscaler_agrees_with_the_cpu(tiny_models: Path, backend: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    weights = tiny_models / "real-esrgan-x4" / "model.safetensors"
    on_gpu, on_cpu = (
        finish(real_esrgan.load(weights, backend, device=device).upscale(pixels)) for device in ("cuda", "cpu")
    )
    assert np.abs(on_gpu.astype(int) - on_cpu).max() <= 3  # float16 against float32

"""Precision by part and device. The device's own precision is forced here, as a CPU computes in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ml.families import only_flux
from tests.ml.runs import lora_config, pictures
from worker.ml import memory, models
from worker.ml.draw.generate import PictureRequest, generate
from worker.ml.errors import NotFinite, PrecisionUnsupported
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, train

REQUEST = PictureRequest("a photo", negative_prompt=None, width=64, height=64, steps=12, guidance=3.5, seed=5)


@pytest.fixture(scope="module")
def half(tiny_base: Path) -> Base:
    return models.load(tiny_base, "cpu", torch.float16)


def dtypes_of(module: torch.nn.Module) -> set[torch.dtype]:
    return {weights.dtype for weights in module.parameters()}


@pytest.mark.parametrize(
    ("native", "emulated", "expected"), [(True, True, torch.bfloat16), (False, True, torch.float16)]
)
def test_bfloat16_is_used_only_where_the_gpu_has_it_in_hardware(
    monkeypatch: pytest.MonkeyPatch, native: bool, emulated: bool, expected: torch.dtype
) -> None:
    """A V100 or T4 says that it supports bfloat16, and emulates it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.device("cpu"))
    assert memory.compute_dtype(torch.device("cuda")) == expected


def test_beside_float16_the_autoencoder_is_float32(half: Base) -> None:
    modules = half.family.modules(half.parts)
    assert dtypes_of(modules[half.family.denoiser]) == {torch.float16}
    assert dtypes_of(modules[half.family.autoencoder]) == {torch.float32}


@only_flux
def test_beside_float16_the_output_layers_of_t5_are_float32(half: Base) -> None:
    """They leave float16's range in the published encoder, and every prompt would become NaN."""
    names = {name for name, weights in half.parts.text_encoder_2.named_parameters() if weights.dtype == torch.float32}
    assert names
    assert all(".wo." in name for name in names)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two pictures, as a share of the range of colours."""
    return float(np.sqrt(np.mean((a.astype(float) - b.astype(float)) ** 2)) / 255)


def test_with_float32_latents_a_float16_picture_is_nearer_to_float32s_than_bfloat16s_is(base: Base, half: Base) -> None:
    brain = models.load(base.folder, "cpu", torch.bfloat16)
    (exact,), (of_half,), (of_brain,) = (pictures(generate(one, REQUEST)) for one in (base, half, brain))
    assert rms(of_half, exact) < rms(of_brain, exact) / 2
    assert rms(of_half, exact) < 0.005


def test_float32_latents_are_what_makes_it_nearer(base: Base, half: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    (exact,), (ours,) = (pictures(generate(one, REQUEST)) for one in (base, half))
    first_noise = type(half.family).first_noise
    monkeypatch.setattr(
        type(half.family), "first_noise", lambda *args: first_noise(*args[:-1], torch.float32).to(torch.float16)
    )
    (of_half_latents,) = pictures(generate(half, REQUEST))
    assert rms(ours, exact) < rms(of_half_latents, exact)


def test_numbers_that_leave_the_range_of_float16_end_the_drawing_at_their_step(half: Base) -> None:
    def overflow(module: torch.nn.Module, args: object, kwargs: object, output: tuple[torch.Tensor, ...]) -> object:
        return (output[0] * torch.inf,)

    hook = half.denoiser.register_forward_hook(overflow, with_kwargs=True)
    try:
        seen: list[object] = []
        with pytest.raises(NotFinite, match=r"float16 at step 1 of \d+"):
            seen.extend(generate(half, REQUEST))
    finally:
        hook.remove()
    assert len(pictures(generate(half, REQUEST))) == 1


@only_flux
def test_a_family_that_is_not_trained_in_float16_says_which_gpu_it_needs(
    half: Base, photos: list[Photo], tmp_path: Path
) -> None:
    with pytest.raises(PrecisionUnsupported, match=r"compute capability 8\.0"):
        list(train(half, photos, lora_config(steps=1, resolution=64), Run(tmp_path)))

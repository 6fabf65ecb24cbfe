"""Numbers that are not finite: the job fails and names the part, instead of publishing a black picture."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.ml.runs import finish, lora_config
from worker.demo.config import SMALL_BASE
from worker.ml import models
from worker.ml.adapters import files
from worker.ml.draw.generate import LoraUse, Picture, PictureRequest, generate
from worker.ml.errors import BadInput, NotFinite
from worker.ml.models import Base
from worker.ml.networks import real_esrgan, tiny
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Run, TrainedLora, train


def request(*loras: LoraUse, seed: int = 7, num_images: int = 1) -> PictureRequest:
    return PictureRequest("a photo", None, 64, 64, 2, None, seed, num_images, loras)


def draw(base: Base, asked: PictureRequest) -> list[Picture]:
    return [event for event in generate(base, asked) if isinstance(event, Picture)]


def enlarged(lora: Path, path: Path, factor: float) -> Path:
    """Write a LoRA with all its numbers multiplied: finite, but what it computes overflows."""
    with safe_open(lora, "pt") as file:
        metadata = file.metadata()
    stored = {name: weights.float() for name, weights in load_file(lora).items()}
    spread = {name: 0 if name.endswith(".alpha") else factor for name in stored}
    save_file({name: stored[name] * (by or 1) + by for name, by in spread.items()}, path, metadata)
    return path


def spoilt(base: Base, part: str) -> Base:
    """Return the base with NaN for all weights of a part."""
    parts = copy.deepcopy(base.parts)
    for weights in base.family.modules(parts)[part].parameters():
        weights.data.fill_(torch.nan)
    return Base(base.folder, base.family, parts, base.device, base.dtype)


@pytest.mark.parametrize("factor", [1e6, 1e30])
def test_a_lora_of_enormous_numbers_is_named(base: Base, trained: TrainedLora, tmp_path: Path, factor: float) -> None:
    huge = enlarged(trained.path, tmp_path / "huge.safetensors", factor)
    said = (
        rf"huge.safetensors makes {base.folder.name} give numbers that are not finite at step 1 of \d: train it again"
    )
    with pytest.raises(BadInput, match=said):
        draw(base, request(LoraUse(huge)))
    with pytest.raises(BadInput, match=said):  # and not the other one
        draw(base, request(LoraUse(trained.path), LoraUse(huge, 0.5)))


@pytest.fixture(scope="module")
def flux_base() -> Base:
    return models.load(SMALL_BASE / "base", "cpu")


def of_the_end(base: Base, path: Path, factor: float) -> Path:
    """Write a LoRA of FLUX's last layer, which no norm follows: what it makes is as large as its numbers."""
    layer, generator = base.denoiser.proj_out, torch.Generator().manual_seed(0)
    state = {
        "transformer.proj_out.lora_A.weight": torch.randn(2, layer.in_features, generator=generator),
        "transformer.proj_out.lora_B.weight": torch.randn(layer.out_features, 2, generator=generator) * factor,
    }
    files.write(path, state, {"family": "flux"})  # FLUX.2 klein has such a layer too
    return path


@pytest.mark.parametrize("factor", [3e17, 1e18, 1e20, 1e25, 1e36])
def test_a_lora_is_named_whose_numbers_overflow_only_in_what_follows(
    flux_base: Base, tmp_path: Path, factor: float
) -> None:
    """In a later step, or in the autoencoder, which then get what no base could draw from."""
    huge = LoraUse(of_the_end(flux_base, tmp_path / "huge.safetensors", factor))
    with pytest.raises(BadInput, match=rf"^huge.safetensors makes {flux_base.folder.name} give .*: train it again$"):
        draw(flux_base, request(huge))


def test_the_base_draws_as_before_after_a_lora_failed(base: Base, trained: TrainedLora, tmp_path: Path) -> None:
    before = draw(base, request())[0].pixels
    with pytest.raises(BadInput):
        draw(base, request(LoraUse(enlarged(trained.path, tmp_path / "huge.safetensors", 1e30))))
    assert (draw(base, request())[0].pixels == before).all()


def test_a_base_that_gives_no_numbers_is_named_with_its_part(base: Base, trained: TrainedLora) -> None:
    for part in (*base.family.encoders, base.family.denoiser, base.family.autoencoder):
        said = rf"{base.folder.name} gives numbers that are not finite.*: some weights of its {part} are not finite"
        with pytest.raises(NotFinite, match=said):
            draw(spoilt(base, part), request(LoraUse(trained.path)))


def test_a_training_on_such_a_base_does_not_blame_the_learning_rate(
    base: Base, photos: list[Photo], tmp_path: Path
) -> None:
    config = lora_config(steps=2, resolution=64)
    for part in (base.family.denoiser, base.family.autoencoder):
        said = rf"{base.folder.name} gives numbers that are not finite: some weights of its {part} are not finite"
        with pytest.raises(NotFinite, match=said):
            finish(train(spoilt(base, part), photos[:3], config, Run(tmp_path)))


def test_an_upscaler_that_gives_no_numbers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tiny.build_tiny(path, 2)
    weights = load_file(path)
    save_file({name: tensor * 1e30 for name, tensor in weights.items()}, path)
    upscaler = real_esrgan.load(path, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    with pytest.raises(NotFinite, match="the upscaler gives numbers that are not finite"):
        finish(upscaler.upscale(pixels))


def test_seeds_wrap_so_that_each_can_be_requested_again(base: Base) -> None:
    last = draw(base, request(seed=2**32 - 1, num_images=3))
    assert [picture.seed for picture in last] == [2**32 - 1, 0, 1]
    for picture in last[1:]:
        assert (draw(base, request(seed=picture.seed))[0].pixels == picture.pixels).all()

"""A family needs its own files alone: one that the product does not have passes the tests of those that it has.

`tests/ml/throwaway` was written by following `docs/adding-a-model.md`. Nothing in `worker/` knows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, Lumina2Transformer2DModel
from safetensors.torch import save_file

from tests.ml import throwaway, vanilla
from tests.ml.conftest import QUICK_CONFIG
from tests.ml.geometry import CONFIGS
from tests.ml.runs import finish, predict
from tests.ml.test_guides import (  # noqa: F401
    guide,
    test_a_guide_is_prepared_once_a_picture_and_sees_every_evaluation,
)
from tests.ml.test_lora_files import PAIR
from tests.ml.test_memory import (  # noqa: F401
    Published,
    fused_attention,
    test_what_a_checkpointed_training_step_needs_is_estimated_at_the_published_geometry,
    test_what_drawing_needs_is_estimated_at_the_published_geometry,
    zeros,
)
from tests.ml.test_models import (  # noqa: F401
    test_a_base_describes_itself,
    test_the_memory_of_a_training_step_is_estimated,
)
from tests.ml.test_moving import (  # noqa: F401
    offloaded,
    test_parts_that_take_turns_draw_the_same_picture,
    test_parts_that_take_turns_train_the_same_lora,
)
from tests.ml.test_resume import photos, test_resumed_equals_uninterrupted, whole  # noqa: F401
from tests.ml.test_stopping import (  # noqa: F401
    before,
    test_a_drawing_stopped_at_any_step_leaves_the_base_unchanged,
    test_a_drawing_stops_within_one_step,
    test_a_training_stopped_at_any_step_leaves_the_base_unchanged,
)
from tests.ml.test_vanilla_parity import (  # noqa: F401
    REQUEST,
    draws_against_a_negative_prompt,
    narrow,
    test_a_trained_lora_draws_as_in_plain_diffusers,
    test_a_training_step_equals_that_of_diffusers_own_script,
    test_each_setting_matters,
    test_in_bfloat16_the_pictures_are_still_equal,
    test_without_a_lora_the_picture_equals_that_of_plain_diffusers,
)
from tests.ml.throwaway import family as lumina2
from tests.ml.throwaway import tiny
from tests.test_house import test_nothing_outside_its_room_names_a_family  # noqa: F401
from worker.demo.held_out_loss import held_out_loss
from worker.ml import models
from worker.ml.adapters.names import shape_of
from worker.ml.draw.generate import LoraUse, generate, resolve
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora as lora_families
from worker.ml.families.conditions import RaggedTokens
from worker.ml.models import Base
from worker.ml.train.batches import Batch, Photo
from worker.ml.train.train_lora import LoraConfig, Run, TrainedLora, train

# The tests above are those of every family. Here their fixtures are about this one.


def script_loss(pipeline: Any, batch: Batch, prompts: list[str]) -> torch.Tensor:
    """The loss of examples/dreambooth/train_dreambooth_lora_lumina2.py, whose `sigma` is 1 for the photo."""
    hidden, mask, _, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    sigmas = batch.time.view(-1, 1, 1, 1)
    prediction = pipeline.transformer(
        hidden_states=(1.0 - sigmas) * batch.noise + sigmas * batch.latents,
        encoder_hidden_states=hidden,
        encoder_attention_mask=mask,
        timestep=batch.time,
        return_dict=False,
    )[0]
    target = batch.latents - batch.noise
    return torch.mean((prediction - target).pow(2).reshape(len(target), -1), 1).mean()


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        throwaway.register(patch)
        patch.setitem(vanilla.LOSSES, lumina2.Lumina2.name, script_loss)
        yield


@pytest.fixture(scope="module")
def family() -> str:
    return lumina2.Lumina2.name


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-lumina2"
    tiny.build_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def base(registered: None, tiny_base: Path) -> Base:
    return models.load(tiny_base, "cpu")


@pytest.fixture(scope="module")
def quick_config() -> LoraConfig:
    return replace(QUICK_CONFIG, steps=30, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained(
    base: Base,
    quick_config: LoraConfig,
    photos: list[Photo],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainedLora:
    return finish(train(base, photos, quick_config, Run(tmp_path_factory.mktemp("trained"))))


@pytest.fixture(scope="module")
def published() -> Iterator[Published]:
    """Lumina-Image 2.0's own geometry. Its transformer reads the mask's values, which the meta device does not have."""
    with torch.device("meta"):
        transformer = Lumina2Transformer2DModel(cap_feat_dim=2304)
        autoencoder = json.loads((CONFIGS / "flux-dev.json").read_text("utf-8"))["vae/config.json"]
        vae = AutoencoderKL.from_config(autoencoder)
    for module in (transformer, vae):
        module.to(torch.bfloat16).eval().requires_grad_(False)
    parts, prompt = SimpleNamespace(transformer=transformer, vae=vae, vae_scale_factor=8), zeros(256, 2304)
    mask_of = lumina2.mask_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lumina2, "mask_of", lambda lengths, _: mask_of(lengths, torch.device("cpu")))
        shape = lambda grid: (16, 2 * grid[0], 2 * grid[1])  # noqa: E731
        yield Published(lumina2.Lumina2(), parts, RaggedTokens((prompt,)), shape)


# What only this one has.


def test_a_negative_prompt_is_encoded_without_the_template_of_wanted_ones_as_in_plain_diffusers(base: Base) -> None:
    draws_against_a_negative_prompt(base)


def test_a_short_training_learns_its_person(base: Base, trained: TrainedLora, take_photos: Any) -> None:
    held_out = take_photos("example", seed=7, count=4)
    none, learnt = (held_out_loss(base, held_out, lora, resolution=64) for lora in (None, trained.path))
    assert learnt < 0.8 * none


def test_prompts_of_different_lengths_share_a_batch(base: Base) -> None:
    family, parts = base.family, base.parts
    prompts = [family.encode_prompts(parts, [text], base.device) for text in ("a photo", "a photo of a man in a park")]
    first, second = (len(prompt.tokens[0]) for prompt in prompts)
    assert first < second
    both = prompts[0].join(prompts[1:])
    latents, time = torch.randn((2, 16, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    together = predict(base, latents, time, both, (4, 4))
    for row in range(2):
        alone = predict(base, latents[row : row + 1], time[row : row + 1], prompts[row], (4, 4))
        torch.testing.assert_close(together[row : row + 1], alone)
        taken = both.take(torch.arange(2) == row)
        assert torch.equal(predict(base, latents[row : row + 1], time[row : row + 1], taken, (4, 4)), alone)


def test_a_prompt_is_cut_where_it_and_its_template_are_too_long(base: Base) -> None:
    assert resolve(base, replace(REQUEST, prompt="a " * 220)).prompt_cut_by == ()
    assert resolve(base, replace(REQUEST, prompt="a " * 240)).prompt_cut_by == ("gemma",)


def test_a_lora_of_another_family_is_refused_by_name(base: Base, trained: TrainedLora, tmp_path: Path) -> None:
    save_file(PAIR, tmp_path / "other.safetensors")
    request = replace(REQUEST, loras=(LoraUse(tmp_path / "other.safetensors"),))
    with pytest.raises(ModelUnreadable, match="is a LoRA for flux, but the base is lumina2"):
        list(generate(base, request))
    with pytest.raises(ModelUnreadable, match="is a LoRA for lumina2, but the base is flux"):
        lora_families.load(trained.path, "flux")


def test_layers_that_the_original_code_fuses_are_converted_to_its_names_and_back(trained: TrainedLora) -> None:
    """Queries, keys and values: their sizes are no multiples of each other's input."""
    names, layers = throwaway.NAMES, lora_families.load(trained.path, "lumina2")
    ours = {f"{names.prefix}{layer}": pair for layer, pair in layers.items()}
    kohya = names.to_kohya(ours)
    a, b = kohya["lora_unet_layers_0_attention_qkv"]
    assert (a.shape, b.shape) == ((48, 96), (160, 48))
    assert lora_families.family_of("kohya", {name: shape_of(pair) for name, pair in kohya.items()}) is names
    back = names.to_diffusers(kohya)
    assert back.keys() == ours.keys()
    for name, (a, b) in ours.items():
        torch.testing.assert_close(back[name][1] @ back[name][0], b @ a)


def test_a_lora_of_real_size_is_one_of_the_family(published: Published) -> None:
    with published.family.new_lora(published.parts, 16, torch.Generator()) as lora:
        shapes = {name: tuple(weights.shape) for name, weights in lora.items()}
    sides = [name.removesuffix(".lora_A.weight") for name in shapes if "lora_A" in name]
    layers = {name: (shapes[f"{name}.lora_A.weight"][1], shapes[f"{name}.lora_B.weight"][0]) for name in sides}
    assert len(layers) == 7 * (26 + 2 + 2)
    assert lora_families.family_of("lora", layers) is throwaway.NAMES

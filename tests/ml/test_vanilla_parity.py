"""A published LoRA draws the same picture in plain diffusers as here, and a step learns the same as in its scripts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)

from tests.ml import vanilla
from tests.ml.families import only_klein, only_sd15, only_sdxl
from tests.ml.runs import finish, lora_config, pictures
from worker.ml import models
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.models import Base
from worker.ml.train.batches import Photo, TrainingData, draw_batch, encode_captions, encode_photos
from worker.ml.train.loss import sample_losses
from worker.ml.train.train_lora import Run, TrainedLora, train

PROMPT = "a photo of ohwx person, wearing a blue shirt, in a park"
REQUEST = PictureRequest(
    PROMPT, negative_prompt=None, width=64, height=96, steps=4, guidance=3.5, seed=11, num_images=1
)
SETTINGS = {"width": 64, "height": 96, "num_inference_steps": 4, "guidance_scale": 3.5}


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture(scope="module")
def narrow(base: Base, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> TrainedLora:
    """A LoRA of another rank, from another seed."""
    config = lora_config(steps=6, rank=6, learning_rate=3e-2, resolution=32, seed=3)
    return finish(train(base, photos[:2], config, Run(tmp_path_factory.mktemp("narrow"))))


def test_without_a_lora_the_picture_equals_that_of_plain_diffusers(base: Base) -> None:
    (ours,) = pictures(generate(base, REQUEST))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, **SETTINGS)
    assert furthest(ours, theirs) == 0


@pytest.mark.parametrize(("which", "scale"), [("trained", 1.0), ("narrow", -0.5)])
def test_a_trained_lora_draws_as_in_plain_diffusers(
    base: Base, which: str, scale: float, request: pytest.FixtureRequest
) -> None:
    lora: TrainedLora = request.getfixturevalue(which)
    (ours,) = pictures(generate(base, replace(REQUEST, loras=(LoraUse(lora.path, scale),))))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, loras=[(lora.path, scale)], **SETTINGS)
    (without,) = pictures(generate(base, REQUEST))
    assert furthest(ours, theirs) == 0
    assert furthest(ours, without) >= 20


def test_two_loras_at_once_draw_as_in_plain_diffusers(base: Base, trained: TrainedLora, narrow: TrainedLora) -> None:
    uses = [(trained.path, 0.8), (narrow.path, 0.4)]
    (ours,) = pictures(generate(base, replace(REQUEST, loras=tuple(LoraUse(*use) for use in uses))))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, loras=uses, **SETTINGS)
    assert furthest(ours, theirs) == 0


def test_the_next_image_is_the_next_seed(base: Base, trained: TrainedLora) -> None:
    ours = pictures(generate(base, replace(REQUEST, num_images=2, loras=(LoraUse(trained.path),))))
    theirs = [vanilla.draw(base.folder, PROMPT, seed=s, loras=[(trained.path, 1)], **SETTINGS) for s in (11, 12)]
    assert [furthest(a, b) for a, b in zip(ours, theirs, strict=True)] == [0, 0]
    assert furthest(*ours) > 20


def test_in_bfloat16_the_pictures_are_still_equal(base: Base, trained: TrainedLora) -> None:
    """At the smallest size, because bfloat16 is slow on a CPU."""
    half = models.load(base.folder, "cpu", torch.bfloat16)
    smallest = replace(REQUEST, width=32, height=32, steps=2, loras=(LoraUse(trained.path),))
    (ours,) = pictures(generate(half, smallest))
    settings = SETTINGS | {"width": 32, "height": 32, "num_inference_steps": 2}
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, loras=[(trained.path, 1)], dtype=torch.bfloat16, **settings)
    assert furthest(ours, theirs) == 0


def test_each_setting_matters(base: Base) -> None:
    """Parity would be cheap if the tiny base ignored what it is given."""
    changes: dict[str, dict[str, object]] = {
        "nothing": {},
        "guidance": {"guidance": 1.0},
        "steps": {"steps": 5},
        "seed": {"seed": 12},
        "prompt": {"prompt": "a red wall"},
    }
    drawn = {name: pictures(generate(base, replace(REQUEST, **change)))[0] for name, change in changes.items()}
    plain = drawn.pop("nothing")
    assert [name for name, picture in drawn.items() if furthest(picture, plain) == 0] == []


# -- guidance against a negative prompt


def draws_against_a_negative_prompt(base: Base) -> None:
    against = replace(REQUEST, negative_prompt="a red wall", guidance=3.0)
    settings = {**SETTINGS, "guidance_scale": 3.0}
    (ours,) = pictures(generate(base, against))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, negative_prompt="a red wall", **settings)
    (against_nothing,) = pictures(generate(base, replace(against, negative_prompt=None)))
    assert furthest(ours, theirs) <= 1  # diffusers makes FLUX's two predictions one after the other
    assert furthest(ours, against_nothing) > 1
    assert furthest(against_nothing, vanilla.draw(base.folder, PROMPT, seed=11, negative_prompt="", **settings)) <= 1


@only_sd15
def test_stable_diffusion_applies_a_negative_prompt_as_plain_diffusers_does(base: Base) -> None:
    draws_against_a_negative_prompt(base)


@only_sdxl
def test_sdxl_applies_a_negative_prompt_as_plain_diffusers_does_and_none_is_zeros(base: Base) -> None:
    """Plain diffusers encodes an empty negative prompt; here one is none, which the base wants as zeros."""
    against = replace(REQUEST, negative_prompt="a red wall", guidance=3.0)
    settings = {**SETTINGS, "guidance_scale": 3.0}
    (ours,), (nothing,), (empty,) = (
        pictures(generate(base, replace(against, negative_prompt=text))) for text in ("a red wall", None, "")
    )
    assert furthest(ours, vanilla.draw(base.folder, PROMPT, seed=11, negative_prompt="a red wall", **settings)) == 0
    assert furthest(nothing, vanilla.draw(base.folder, PROMPT, seed=11, **settings)) == 0
    assert furthest(nothing, empty) == 0
    assert furthest(nothing, vanilla.draw(base.folder, PROMPT, seed=11, negative_prompt="", **settings)) > 0
    assert furthest(ours, nothing) > 1


def test_a_flux_base_without_guidance_embedding_applies_a_negative_prompt_as_plain_diffusers_does(
    unguided: Base,
) -> None:
    draws_against_a_negative_prompt(unguided)


@only_klein
def test_klein_applies_a_negative_prompt_as_plain_diffusers_does(base: Base) -> None:
    draws_against_a_negative_prompt(base)


@only_klein
def test_a_distilled_klein_base_draws_as_in_plain_diffusers_whatever_its_guidance(
    distilled: Base, trained: TrainedLora
) -> None:
    """With the LoRA that was trained on the other."""
    request = replace(REQUEST, steps=4, negative_prompt="a red wall", loras=(LoraUse(trained.path),))
    (ours,) = pictures(generate(distilled, request))
    settings = {**SETTINGS, "num_inference_steps": 4}
    theirs = vanilla.draw(distilled.folder, PROMPT, seed=11, loras=[(trained.path, 1)], **settings)
    assert furthest(ours, theirs) == 0


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_up_to_1_ignores_the_negative_prompt(unguided: Base, guidance: float) -> None:
    (ours,) = pictures(generate(unguided, replace(REQUEST, negative_prompt="a red wall", guidance=guidance)))
    assert (
        furthest(ours, vanilla.draw(unguided.folder, PROMPT, seed=11, **{**SETTINGS, "guidance_scale": guidance})) == 0
    )


# -- schedulers of Stable Diffusion bases


def with_scheduler(folder: Path, scheduler: type, **settings: object) -> Base:
    """The base of a folder, drawing with another scheduler."""
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    noise = {name: config[name] for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
    scheduler(**noise, steps_offset=1, **settings).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index["scheduler"] = ["diffusers", scheduler.__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return models.load(folder, "cpu")


@only_sd15
@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        (EulerDiscreteScheduler, {"timestep_spacing": "leading"}),
        (EulerAncestralDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
        (DDIMScheduler, {"prediction_type": "v_prediction", "clip_sample": False}),
    ],
)
def test_the_scheduler_in_the_bases_folder_is_used(
    tiny_base: Path, tmp_path: Path, scheduler: type, settings: dict[str, object]
) -> None:
    """Ancestral ones draw noise at every step: it must come from the seed, or pictures could not be repeated."""
    other = with_scheduler(Path(shutil.copytree(tiny_base, tmp_path / "other")), scheduler, **settings)
    (ours,) = pictures(generate(other, REQUEST))
    assert furthest(ours, vanilla.draw(other.folder, PROMPT, seed=11, **SETTINGS)) == 0


# -- training


def gradients_of(base: Base, photos: list[Photo]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and all gradients of one step from a LoRA that is not zero; ours, beside those of diffusers' script."""
    captions = [photo.caption for photo in photos]
    samples, _ = encode_photos(base, photos, 64)
    data = TrainingData(samples, encode_captions(base, captions))
    batch = draw_batch(base, data, lora_config(batch_size=len(photos), caption_dropout=0, preservation=0), 0)
    plain = DiffusionPipeline.from_pretrained(base.folder, dtype=torch.float32, local_files_only=True)
    results = []
    with base.family.new_lora(base.parts, 4, torch.Generator().manual_seed(0)) as lora:
        for weights in lora.values():
            weights.data += 0.05
        loss = sample_losses(base, batch).mean()
        results.append((loss, torch.autograd.grad(loss, list(lora.values()))))
        # The script uses our model: the comparison is about everything around it.
        plain.register_modules(**{base.family.denoiser: base.denoiser})
        order = [next(i for i, s in enumerate(samples) if torch.equal(s.latents[0], one)) for one in batch.latents]
        prompts = [captions[i] for i in order]
        loss = vanilla.LOSSES[base.family.name](plain, batch, prompts)
        results.append((loss, torch.autograd.grad(loss, list(lora.values()))))
    return tuple(torch.cat([loss.detach().view(1), *(g.flatten() for g in gradients)]) for loss, gradients in results)


def test_a_training_step_equals_that_of_diffusers_own_script(base: Base, photos: list[Photo]) -> None:
    ours, theirs = gradients_of(base, photos[:4])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert ours[1:].abs().max() > 1e-3


@only_sd15
def test_a_base_that_predicts_velocity_is_trained_on_velocity(
    tiny_base: Path, photos: list[Photo], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "velocity"))
    velocity = with_scheduler(folder, DDIMScheduler, prediction_type="v_prediction", clip_sample=False)
    ours, theirs = gradients_of(velocity, photos[:4])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert velocity.family.lora_metadata(velocity.parts)["modelspec.prediction_type"] == "v"

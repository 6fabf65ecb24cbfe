"""Samplers by name, and earlier layers of the text encoder: as in plain diffusers, or refused with what there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from tests.ml.families import only_u_net
from tests.ml.runs import pictures
from worker.ml.draw.generate import PictureRequest, Resolved, generate
from worker.ml.errors import BadInput
from worker.ml.families.registry import FAMILIES
from worker.ml.families.samplers import OF_DIFFUSION
from worker.ml.models import Base

REQUEST = PictureRequest("a photo", negative_prompt=None, width=32, height=32, steps=4, guidance=3.0, seed=7)


def drawn(base: Base, **changes: Any) -> np.ndarray:
    (picture,) = pictures(generate(base, replace(REQUEST, **changes)))
    return picture


@pytest.fixture(scope="module")
def plain(base: Base) -> Callable[..., np.ndarray]:
    """What plain diffusers draws with a scheduler of its own, put in as its documentation says."""
    pipeline = DiffusionPipeline.from_pretrained(base.folder, local_files_only=True, add_watermarker=False)
    return partial(drawn_plainly, pipeline, pipeline.scheduler)


def drawn_plainly(pipeline: Any, usual: Any, sampler: str | None = None, layer: int | None = None) -> np.ndarray:
    pipeline.scheduler = usual
    if sampler is not None:
        named = OF_DIFFUSION[sampler]
        pipeline.scheduler = named.scheduler.from_config(usual.config, **named.settings)
    prompts = {"prompt": REQUEST.prompt} if layer is None else encoded(pipeline, layer)
    generator = torch.Generator("cpu").manual_seed(REQUEST.seed)
    size = {"width": REQUEST.width, "height": REQUEST.height}
    steps = {"num_inference_steps": REQUEST.steps, "guidance_scale": REQUEST.guidance}
    return np.asarray(pipeline(**prompts, generator=generator, **size, **steps).images[0])


def encoded(pipeline: Any, layer: int) -> dict[str, torch.Tensor]:
    """Both prompts at a layer: by itself, `clip_skip` leaves the negative one as it is, unlike other programs."""
    if isinstance(pipeline, StableDiffusionPipeline):
        # Where the pipeline looks for the last norm, which transformers 5 has elsewhere.
        object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
        wanted, against = (
            pipeline.encode_prompt(prompt, "cpu", 1, False, clip_skip=layer - 1 or None)[0]
            for prompt in (REQUEST.prompt, "")
        )
        return {"prompt_embeds": wanted, "negative_prompt_embeds": against}
    wanted, _, pooled, _ = pipeline.encode_prompt(
        REQUEST.prompt, clip_skip=layer - 2, do_classifier_free_guidance=False
    )
    zeros = {"negative_prompt_embeds": wanted * 0, "negative_pooled_prompt_embeds": pooled * 0}  # for the empty one
    return {"prompt_embeds": wanted, "pooled_prompt_embeds": pooled, **zeros}


@only_u_net
@pytest.mark.parametrize("name", OF_DIFFUSION)
def test_a_named_sampler_draws_as_in_plain_diffusers(base: Base, plain: Any, name: str) -> None:
    assert np.array_equal(drawn(base, sampler=name), plain(name))


def test_every_sampler_of_a_family_draws_another_picture_and_a_seed_means_one(base: Base) -> None:
    found = {name: drawn(base, sampler=name) for name in base.family.samplers}
    assert len({picture.tobytes() for picture in found.values()}) == len(base.family.samplers)
    for name, picture in found.items():
        assert np.array_equal(drawn(base, sampler=name), picture)
    if "euler" in found and type(base.parts.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        assert np.array_equal(found["euler"], drawn(base)), "it is the one of the folder"


@only_u_net
@pytest.mark.parametrize(
    ("written", "name"), [("Euler a", "euler_a"), ("DPM++ 2M Karras", "dpmpp_2m_karras"), (" DDIM ", "ddim")]
)
def test_names_as_people_write_them_are_understood(base: Base, written: str, name: str) -> None:
    events = generate(base, replace(REQUEST, sampler=written))
    resolved = next(event for event in events if isinstance(event, Resolved))
    assert resolved.sampler == name


def test_a_sampler_that_the_family_has_not_is_refused_with_those_it_has(base: Base) -> None:
    with pytest.raises(BadInput, match=rf"sampler: plms is not one of {base.family.name}: .*euler"):
        drawn(base, sampler="plms")


@only_u_net
@pytest.mark.parametrize("layer", [1, 2])
def test_an_earlier_layer_of_the_text_encoder_is_read_as_in_plain_diffusers(base: Base, plain: Any, layer: int) -> None:
    usual = {"sd15": 1, "sdxl": 2}[base.family.name]
    ours = drawn(base, clip_skip=layer)
    assert np.array_equal(ours, plain(layer=layer))
    assert np.array_equal(ours, drawn(base)) is (layer == usual)


@only_u_net
@pytest.mark.parametrize("layer", [0, -1, 99])
def test_layers_that_the_text_encoder_has_not_are_refused(base: Base, layer: int) -> None:
    with pytest.raises(BadInput, match=f"clip_skip must be from 1 to [0-9]+.*not {layer}"):
        drawn(base, clip_skip=layer)


@pytest.mark.parametrize("family", ["flux", "klein"], indirect=True)
def test_a_family_that_reads_fixed_layers_refuses_clip_skip(base: Base) -> None:
    with pytest.raises(BadInput, match=f"clip_skip: {base.family.name} reads fixed layers"):
        drawn(base, clip_skip=2)


def test_every_family_names_its_samplers() -> None:
    assert all(family.samplers for family in FAMILIES.values())

"""A LoRA, a reference and a control in one picture: as in plain diffusers, in any order, and nothing of them stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.ml.controls import REQUEST, Network, a_map, drawn, furthest, tiny_network, write_lora
from tests.ml.references import as_pil, reference
from worker.ml import models
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.guides.registry import open_guide
from worker.ml.guides.tiny.ip_adapter import build_tiny
from worker.ml.models import Base
from worker.ml.protocol import GuideUse

REFERENCES, POSE = (reference(120, 150),), a_map(96, 64)
NETWORKS = [("sd15", "sd15"), ("sdxl", "sdxl union"), ("flux", "flux union")]
each_shape = pytest.mark.parametrize(("family", "name"), [NETWORKS[0], NETWORKS[2]], indirect=True)
each_denoiser = pytest.mark.parametrize(("family", "name"), NETWORKS, indirect=True)


@dataclass(frozen=True)
class Everything:
    lora: LoraUse
    adapter: Path
    network: Network
    reference: GuideUse
    control: GuideUse

    @property
    def request(self) -> PictureRequest:
        return replace(REQUEST, loras=(self.lora,), guides=(self.reference, self.control))


@pytest.fixture(scope="module")
def name(request: pytest.FixtureRequest) -> str:
    network: str = request.param
    return network


@pytest.fixture(scope="module")
def everything(base: Base, name: str, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    folder = tmp_path_factory.mktemp("everything")
    write_lora(base, folder / "lora.safetensors", 0.1)
    build_tiny(folder / "ip-adapter", base)
    network = tiny_network(base, name, folder)
    return Everything(
        LoraUse(folder / "lora.safetensors", 0.8),
        folder / "ip-adapter",
        network,
        GuideUse(open_guide(folder / "ip-adapter", base, "reference"), REFERENCES, 0.7),
        GuideUse(network.guide, (POSE,), 0.6, "pose", 0.0, 0.75),
    )


@each_denoiser
def test_a_lora_a_reference_and_a_control_draw_as_in_plain_diffusers(base: Base, everything: Everything) -> None:
    ours = drawn(base, everything.request)
    theirs = everything.network.plain(
        Image.fromarray(POSE),
        loras=[(everything.lora.path, 0.8)],
        adapter=(everything.adapter, 0.7),
        ip_adapter_image=[as_pil(REFERENCES)],
        controlnet_conditioning_scale=0.6,
        control_guidance_end=0.75,
    )
    assert furthest(ours, theirs) == 0
    without: list[dict[str, Any]] = [
        {"loras": ()},
        {"guides": (everything.reference,)},
        {"guides": (everything.control,)},
    ]
    assert min(furthest(ours, drawn(base, replace(everything.request, **less))) for less in without) > 1


@each_shape
def test_the_order_of_guides_does_not_matter(base: Base, everything: Everything) -> None:
    reverse = replace(everything.request, guides=(everything.control, everything.reference))
    np.testing.assert_array_equal(drawn(base, reverse), drawn(base, everything.request))


@each_shape
def test_a_denoiser_in_int8_draws_nearly_the_same_with_all_of_them(base: Base, everything: Everything) -> None:
    quantised = models.load(base.folder, "cpu", forms=("int8",))
    ours, plain = drawn(quantised, everything.request), drawn(base, everything.request)
    difference = np.abs(ours.astype(int) - plain).mean()
    assert 0 < difference < 1
    assert difference < np.abs(plain.astype(int) - drawn(base, REQUEST)).mean() / 4


@each_shape
def test_a_stop_between_steps_leaves_nothing_of_them(base: Base, everything: Everything) -> None:
    before = drawn(base, REQUEST)
    drawing = generate(base, everything.request)
    next(event for event in drawing if isinstance(event, Step))
    drawing.close()
    np.testing.assert_array_equal(drawn(base, REQUEST), before)

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
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.guides.registry import open_guide
from worker.ml.guides.tiny.ip_adapter import build_tiny
from worker.ml.models import Base
from worker.ml.protocol import GuideUse

REFERENCES, POSE = (reference(120, 150),), a_map(96, 64)
every_network = pytest.mark.parametrize(
    ("family", "name"),
    [("sd15", "sd15"), ("sdxl", "sdxl"), ("sdxl", "sdxl union"), ("flux", "flux union")],
    indirect=["family"],
)


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


@pytest.fixture
def everything(base: Base, name: str, tmp_path: Path) -> Everything:
    write_lora(base, tmp_path / "lora.safetensors", 0.1)
    build_tiny(tmp_path / "ip-adapter", base)
    network = tiny_network(base, name, tmp_path)
    return Everything(
        LoraUse(tmp_path / "lora.safetensors", 0.8),
        tmp_path / "ip-adapter",
        network,
        GuideUse(open_guide(tmp_path / "ip-adapter", base, "reference"), REFERENCES, 0.7),
        GuideUse(network.guide, (POSE,), 0.6, "pose", 0.0, 0.75),
    )


@every_network
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


@every_network
def test_the_order_of_guides_does_not_matter(base: Base, everything: Everything) -> None:
    reverse = replace(everything.request, guides=(everything.control, everything.reference))
    np.testing.assert_array_equal(drawn(base, reverse), drawn(base, everything.request))


@every_network
@pytest.mark.parametrize("steps", [1, 4])
def test_a_stop_between_steps_leaves_nothing_of_them(base: Base, everything: Everything, steps: int) -> None:
    before = drawn(base, REQUEST)
    drawing = generate(base, everything.request)
    for event in drawing:
        steps -= isinstance(event, Step)
        if steps == 0:
            break
    drawing.close()
    np.testing.assert_array_equal(drawn(base, REQUEST), before)

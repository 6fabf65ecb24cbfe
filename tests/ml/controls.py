"""Tiny control networks of each kind that diffusers has, and the pictures that plain diffusers draws with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from tests.ml import vanilla
from tests.ml.runs import pictures
from worker.ml.adapters import files
from worker.ml.draw.generate import PictureRequest, generate
from worker.ml.guides.registry import LoadedGuide, open_guide
from worker.ml.guides.tiny.controlnet import build_tiny
from worker.ml.models import Base
from worker.ml.protocol import GuideUse, Pixels, Sampling

PROMPT = "a photo of a person in a park"
REQUEST = PictureRequest(
    PROMPT, negative_prompt="a red wall", width=64, height=96, steps=4, guidance=3.5, seed=11, num_images=1
)
SETTINGS = {"width": 64, "height": 96, "num_inference_steps": 4, "guidance_scale": 3.5}


@dataclass(frozen=True)
class Variant:
    """One of the networks that diffusers has for a family, and how its pipeline is told the kind of a picture."""

    network: str
    pipeline: str
    picture: str
    modes: dict[str, int] | None = None
    build: dict[str, Any] | None = None


VARIANTS = {
    "sd15": Variant("ControlNetModel", "StableDiffusionControlNetPipeline", "image"),
    "sdxl": Variant("ControlNetModel", "StableDiffusionXLControlNetPipeline", "image"),
    "sdxl union": Variant(
        "ControlNetUnionModel",
        "StableDiffusionXLControlNetUnionPipeline",
        "control_image",
        {"pose": 0, "depth": 1, "canny": 3},
        {"union": True},
    ),
    "flux": Variant("FluxControlNetModel", "FluxControlNetPipeline", "control_image"),
    "flux union": Variant(
        "FluxControlNetModel",
        "FluxControlNetPipeline",
        "control_image",
        {"canny": 0, "depth": 2, "pose": 4},
        {"union": True},
    ),
    "flux of pixels": Variant(
        "FluxControlNetModel",
        "FluxControlNetPipeline",
        "control_image",
        build={"conditioning_embedding_channels": 16, "patch_size": 2},  # XLabs'
    ),
    "z-image": Variant("ZImageControlNetModel", "ZImageControlNetPipeline", "control_image"),
    "z-image 2.0": Variant(
        "ZImageControlNetModel",
        "ZImageControlNetPipeline",
        "control_image",
        build={"control_in_dim": 33, "add_control_noise_refiner": "control_layers"},
    ),
    "z-image 2.1": Variant(
        "ZImageControlNetModel",
        "ZImageControlNetPipeline",
        "control_image",
        build={"control_in_dim": 33, "add_control_noise_refiner": "control_noise_refiner"},
    ),
}


@dataclass(frozen=True)
class Network:
    """A tiny network in its folder, and opened for a base."""

    base: Base
    variant: Variant
    folder: Path
    guide: LoadedGuide

    def guided(self, picture: Pixels, scale: float = 1.0, kind: str = "pose", **window: float) -> PictureRequest:
        return replace(REQUEST, guides=(GuideUse(self.guide, (picture,), scale, kind, **window),))

    def plain(
        self, picture: Image.Image, kind: str = "pose", *, base: Base | None = None, seed: int = 11, **settings: Any
    ) -> Pixels:
        """The picture of plain diffusers, which spends a generator on the control first: it gets our noise."""
        base, variant = base or self.base, self.variant
        control = vanilla.Control(
            self.folder, getattr(diffusers, variant.network), getattr(diffusers, variant.pipeline)
        )
        given: dict[str, Any] = {variant.picture: picture, **SETTINGS, **settings}
        if variant.modes is not None:
            given["control_mode"] = variant.modes[kind]
        if base.family.name in ("flux", "z-image"):
            given["latents"] = noise(base, seed, given)
        if base.family.name != "flux":
            given["negative_prompt"] = REQUEST.negative_prompt
        return vanilla.draw(base.folder, PROMPT, seed=seed, dtype=base.dtype, control=control, **given)


def noise(base: Base, seed: int, settings: dict[str, Any]) -> torch.Tensor:
    token_px, generator = base.family.token_px(base.parts), torch.Generator().manual_seed(seed)
    grid = (settings["height"] // token_px, settings["width"] // token_px)
    sampler = base.family.sampler(base.parts, Sampling(grid, settings["num_inference_steps"]), base.device, generator)
    return base.family.first_noise(base.parts, sampler, grid, generator, base.dtype)


def a_map(height: int, width: int) -> Pixels:
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[height // 6 : height // 2, width // 3 : width // 3 + 3] = (255, 80, 0)
    drawn[height // 3 : height // 3 + 3, 5 : width - 5] = (0, 200, 255)
    return drawn


def write_lora(base: Base, path: Path, size: float) -> None:
    """Write a LoRA of random numbers."""
    generator = torch.Generator().manual_seed(1)
    with base.family.new_lora(base.parts, 4, generator) as lora:
        weights = {name: torch.randn(one.shape, generator=generator) * size for name, one in lora.items()}
    files.write(path, weights, {"family": base.family.name})


def furthest(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def drawn(base: Base, request: PictureRequest) -> Pixels:
    (picture,) = pictures(generate(base, request))
    return picture


def tiny_network(base: Base, name: str, folder: Path) -> Network:
    """Build one of VARIANTS for a base, and open it."""
    folder = folder / f"controlnet-{name.replace(' ', '-')}"
    build_tiny(folder, base, **(VARIANTS[name].build or {}))
    return Network(base, VARIANTS[name], folder, opened(folder, base))


def opened(folder: Path, base: Base, kind: str = "pose") -> LoadedGuide:
    return open_guide(folder, base, f"control:{kind}")

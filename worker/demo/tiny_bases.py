"""Tiny bases of random weights, one of each family: a demo of the family's whole path, and of no likeness."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from worker.demo.config import SMALL_BASE, DemoConfig

_BUILDERS = {
    "flux": "flux1",
    "klein": "klein",
    "qwen-image": "qwen_image",
    "sd15": "sd15",
    "sdxl": "sdxl",
    "z-image": "z_image",
}
"""The module of each family in `worker/ml/families/tiny/`."""
SIDE_PX = 64


def _provide(slug: str, builder: str, folder: Path) -> None:
    for upscaler in ("real-esrgan-x2", "real-esrgan-x4"):
        shutil.copytree(SMALL_BASE / upscaler, folder / upscaler)
    import_module(f"worker.ml.families.tiny.{builder}").build_tiny(folder / slug)


def _config(family: str, builder: str) -> DemoConfig:
    slug, size = f"tiny-{family}", {"width": SIDE_PX, "height": SIDE_PX}
    return DemoConfig(
        base=slug,
        register=f"""
insert into worker.base_models (slug, family, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use)
values ('{slug}', '{family}', '{{train,lora}}', '{{{SIDE_PX}x{SIDE_PX}}}',
        '{{"steps": 4, "guidance": 2, "width": {SIDE_PX}, "height": {SIDE_PX}, "training": {{"batch_size": 4}}}}',
        0, 'none: random weights', true)
on conflict do nothing
""",  # noqa: S608 - both names are from this file
        provide_models=partial(_provide, slug, builder),
        description=f"random weights in the layout of {family}: everything works, and nothing is recognisable",
        training={"steps": 60, "rank": 8, "learning_rate": 5e-3, "resolution": SIDE_PX, "seed": 1},
        picture_settings={"steps": 4, "guidance": 2.0, **size},
        prompts=("photo of {who}, wearing a blue hoodie, at the beach",),
        pictures=2,
        long_request={"num_images": 16, "steps": 100, **size},
    )


TINY: Mapping[str, DemoConfig] = {
    config.base: config for config in (_config(family, builder) for family, builder in _BUILDERS.items())
}

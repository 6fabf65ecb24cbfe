"""The tiny, untrained models of the demo and the tests: the real architectures with random weights."""

from __future__ import annotations

from pathlib import Path

from worker.models import UPSCALER_FILE, UPSCALERS

TINY_BASE = "tiny-flux"

REGISTER_TINY_BASE = """
insert into worker.base_models (slug, family, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use)
values ('tiny-flux', 'flux', '{train,lora}', '{64x64}', '{"steps": 4, "guidance": 3.5, "width": 64, "height": 64}', 0,
        'none: random weights', true)
on conflict do nothing
"""


def build_tiny_models(folder: Path) -> None:
    """Build what is missing below `folder`: the base and the upscalers, in the layout of MODELS_DIR."""
    from worker.ml import upscale
    from worker.ml.architectures import flux_tiny

    if not (folder / TINY_BASE).exists():
        flux_tiny.build_tiny(folder / TINY_BASE)
    for scale, slug in UPSCALERS.items():
        if not (folder / slug).exists():
            (folder / slug).mkdir(parents=True)
            upscale.build_tiny(folder / slug / UPSCALER_FILE, scale)

"""The demo's part about references: the small base with an untrained UNO LoRA, and a drawn mug to refer to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from worker.demo.config import DemoConfig

STRENGTH = 0.02
"""Of the LoRA, which is noise: enough to be seen, and little enough that the base still draws."""
MUG_PX = 128


def with_uno(config: DemoConfig) -> DemoConfig:
    """Return a demo that also draws from a reference, with this one's base for UNO's weights."""
    register = f"""{config.register};
update worker.base_models set weights_of = '{config.base}', min_vram_gib = 0, defaults = base.defaults
from (select defaults from worker.base_models where slug = '{config.base}') base where slug = 'uno';
update worker.guides set vram_gib = 0 where slug = 'uno-lora';
"""  # noqa: S608 - the name is the demo's own

    def provide_models(folder: Path) -> None:
        from worker.ml import models
        from worker.ml.guides.tiny.uno import build_tiny

        config.provide_models(folder)
        build_tiny(folder / "uno-lora", models.load(folder / config.base, "cpu"), strength=STRENGTH)

    return replace(config, register=register, provide_models=provide_models, refers=True)


def draw_mug(path: Path) -> None:
    """Write the picture of a red mug."""
    picture = Image.new("RGB", (MUG_PX, MUG_PX), (226, 222, 214))
    drawing = ImageDraw.Draw(picture)
    drawing.ellipse((80, 46, 116, 90), outline=(190, 40, 36), width=9)
    drawing.rounded_rectangle((28, 34, 92, 106), 10, fill=(196, 44, 40))
    drawing.ellipse((28, 26, 92, 44), fill=(120, 24, 22))
    picture.save(path)

"""The configuration of a demo run: a base, and settings that suit it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SMALL_BASE = Path(__file__).parent / "small_base"


@dataclass(frozen=True)
class DemoConfig:
    """A base, and the requests made to it.

    Attributes:
        base: its slug.
        register: SQL that inserts it into worker.base_models.
        provide_models: puts the base and the upscalers into a folder, in the layout of MODELS_DIR.
        description: what kind of base it is, in one line.
        training: request columns of a training.
        picture_settings: a preset's settings for pictures.
        prompts: `{who}` is replaced by the trigger word or the class.
        pictures: how many for each prompt.
        long_request: columns of a request that takes long enough to be stopped by a revocation.
        refers: whether to draw from a reference too, with the base model uno (`uno.py`).
    """

    base: str
    register: str
    provide_models: Callable[[Path], None]
    description: str
    training: Mapping[str, float]
    picture_settings: Mapping[str, float]
    prompts: tuple[str, ...]
    pictures: int
    long_request: Mapping[str, int]
    refers: bool = False


def _copy_small_base(folder: Path) -> None:
    shutil.copytree(SMALL_BASE, folder)
    (folder / "base").rename(folder / SMALL.base)


SMALL = DemoConfig(
    base="small-flux",
    register="""
insert into worker.base_models (slug, family, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use)
values ('small-flux', 'flux', '{train,lora}', '{112x144,128x128}',
        '{"steps": 20, "guidance": 3, "width": 112, "height": 144,
          "training": {"batch_size": 8, "preservation": 0.5}}',
        0, 'MIT: trained on drawings made by code', true)
on conflict do nothing
""",
    provide_models=_copy_small_base,
    description="FLUX's layout at a thousandth of its size, trained on drawings of people made by code, at 128 px",
    training={"steps": 300, "rank": 8, "learning_rate": 1e-3, "resolution": 128, "seed": 1},
    picture_settings={"steps": 20, "guidance": 3.0, "width": 112, "height": 144},
    prompts=(
        "photo of {who}, wearing a blue hoodie, at the beach",
        "photo of {who}, wearing a yellow turtleneck, in a library",
        "photo of {who}, wearing a white shirt, in an autumn wood, smiling",
    ),
    pictures=3,
    long_request={"num_images": 16, "steps": 100, "width": 112, "height": 144},
)

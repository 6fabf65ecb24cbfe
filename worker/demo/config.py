"""The configuration of a demo run: a base, and settings that suit it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

SMALL_BASE = Path(__file__).parent / "small_base"
UNO_STRENGTH = 0.02
"""Of the demo's LoRA for UNO, which is noise: enough to be seen, and little enough that the base still draws."""


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
        refers: whether to draw from a reference too, with the base model uno (`with_uno`).
        meshes: whether to make a 3D model too, with the model triposr (`with_mesh`).
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
    meshes: bool = False


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


def fits_uno(config: DemoConfig) -> bool:
    """Return True for a demo whose base can have UNO's LoRA: one of FLUX.1's layout."""
    return config.base.endswith("-flux")


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
        build_tiny(folder / "uno-lora", models.load(folder / config.base, "cpu"), strength=UNO_STRENGTH)

    return replace(config, register=register, provide_models=provide_models, refers=True)


def with_mesh(config: DemoConfig) -> DemoConfig:
    """Return a demo that also makes a 3D model, with a tiny TripoSR."""
    register = f"{config.register};\nupdate worker.base_models set min_vram_gib = 0 where slug = 'triposr';\n"

    def provide_models(folder: Path) -> None:
        from worker.ml.networks.triposr.tiny import build_tiny

        config.provide_models(folder)
        build_tiny(folder / "triposr")

    return replace(config, register=register, provide_models=provide_models, meshes=True)

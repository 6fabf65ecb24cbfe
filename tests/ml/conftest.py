"""A tiny base of each family, two drawn people, and a LoRA that was really trained on the first.

A test that uses `base`, or a fixture made from it, runs once for each family.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings

from tests.ml.runs import finish, lora_config
from worker.demo.drawing import portrait
from worker.ml import memory, models
from worker.ml.models import Base
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import LoraConfig, Run, TrainedLora, train

TRIGGER = "ohwx"
QUICK_CONFIG = lora_config(steps=120, rank=16, learning_rate=5e-3, resolution=96, batch_size=6)
"""A few seconds on the tiny base, after which the person is recognisable."""
LEARNING_RATES = {"flux": 5e-3, "klein": 1e-2, "sd15": 1e-2}
STEPS = {"klein": 80}
PEOPLE = {"example": portrait.Person.example(), "other": portrait.Person.other()}


@pytest.fixture(scope="session", params=["flux", "klein", "sd15"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def tiny_base(tiny_models: Path, family: str) -> Path:
    return tiny_models / f"tiny-{family}"


@pytest.fixture(scope="session")
def quick_config(family: str) -> LoraConfig:
    """QUICK_CONFIG at the learning rate and in the steps that suit the family."""
    return replace(QUICK_CONFIG, learning_rate=LEARNING_RATES[family], steps=STEPS.get(family, QUICK_CONFIG.steps))


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> Base:
    """The loaded tiny base. No test may leave it changed, and `test_stopping.py` shows that none does."""
    return models.load(tiny_base, "cpu")


@pytest.fixture(scope="session")
def unguided(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A FLUX base that embeds no guidance, as schnell and bases that were not distilled."""
    folder = tmp_path_factory.mktemp("unguided") / "base"
    shutil.copytree(tiny_models / "tiny-flux", folder)
    transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    guided, unguided = transformer.time_text_embed, CombinedTimestepTextProjEmbeddings(transformer.inner_dim, 32)
    unguided.load_state_dict(guided.state_dict(), strict=False)
    transformer.time_text_embed = unguided
    transformer.register_to_config(guidance_embeds=False)
    transformer.save_pretrained(folder / "transformer")
    return models.load(folder, "cpu")


@pytest.fixture(scope="session")
def distilled(tiny_models: Path) -> Base:
    """A klein base that is drawn with without guidance."""
    return models.load(tiny_models / "tiny-klein-distilled", "cpu")


@pytest.fixture
def device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Treat the CPU as a device with memory of its own, of which so many bytes are free."""

    def limit(free_bytes: int) -> None:
        monkeypatch.setattr(memory, "shares_host", lambda _: False)
        monkeypatch.setattr(memory, "free_device_bytes", lambda _: free_bytes)

    return limit


@pytest.fixture(scope="session")
def take_photos(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Photo]]:
    """Draw photos of a person of PEOPLE, 3:4, with captions."""

    def take(who: str, *, seed: int, count: int) -> list[Photo]:
        folder = tmp_path_factory.mktemp(who)
        photos = []
        for number, scene in enumerate(portrait.scenes(count, seed)):
            path = folder / f"{number}.jpg"
            portrait.draw(PEOPLE[who], scene, (192, 256)).save(path, quality=92)
            photos.append(Photo(path, f"a photo of {TRIGGER} person, {scene.caption}"))
        return photos

    return take


@pytest.fixture(scope="session")
def photos(take_photos: Callable[..., list[Photo]]) -> list[Photo]:
    return take_photos("example", seed=0, count=12)


@pytest.fixture(scope="session")
def trained(
    base: Base, quick_config: LoraConfig, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory
) -> TrainedLora:
    """A LoRA of `example`, trained for a few seconds."""
    workdir = tmp_path_factory.mktemp("trained")
    return finish(train(base, photos, quick_config, Run(workdir, {"trigger_word": TRIGGER})))

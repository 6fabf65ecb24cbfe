"""A tiny base of each family, two drawn people, and a LoRA of the first.

A test that uses `base`, or a fixture made from it, runs for FLUX.1 and Stable Diffusion 1.5. For families after them it
runs if it is in OF_EVERY_FAMILY: others would find only again what the loops do, which is the same for every family.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings

from tests.ml.runs import finish, lora_config
from worker.demo.drawing import portrait
from worker.ml import memory, models
from worker.ml.models import Base
from worker.ml.train import runaway
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import LoraConfig, Run, TrainedLora, train

TRIGGER = "ohwx"
QUICK_CONFIG = lora_config(steps=100, rank=16, learning_rate=5e-3, resolution=64, batch_size=4)
"""A few seconds on the tiny base, after which the person is recognisable."""
EVERY_FAMILY = ("flux", "klein", "qwen-image", "sd15", "sdxl", "z-image")
FIRST_FAMILIES = ("flux", "sd15")
"""A transformer and a U-Net, for what is not the families' own."""
LEARNING_RATES = {"flux": 5e-3, "klein": 1e-2, "qwen-image": 7e-3, "sd15": 1e-2, "sdxl": 8e-3, "z-image": 7e-3}
ROUNDS = {
    "klein": {"steps": 80},
    "qwen-image": {"steps": 60},
    "sd15": {"steps": 160, "batch_size": 6, "resolutions": (96,)},
    "sdxl": {"steps": 40, "resolutions": (96,)},
    "z-image": {"steps": 130},
}
"""Where the person is recognisable after others than those of QUICK_CONFIG."""
OF_EVERY_FAMILY = frozenset(
    (
        # test_generate
        "test_sizes_are_rounded_down_to_what_the_base_can_draw_and_reported",
        "test_prompts_do_not_reach_the_log",
        # test_guides
        "test_a_guide_is_prepared_once_a_picture_and_sees_every_evaluation",
        # test_lora_files
        "test_the_header_describes_the_file",
        "test_layers_are_read_by_the_denoisers_own_names_at_scale_one",
        "test_every_alpha_is_the_rank_so_that_the_scale_is_one",
        "test_diffusers_reads_back_exactly_what_was_trained",
        "test_every_ss_name_is_one_that_sd_scripts_writes",
        "test_a_lora_of_another_size_is_refused_before_it_touches_the_base",
        "test_a_lora_for_layers_the_base_lacks_is_refused",
        "test_a_lora_of_another_family_is_refused",
        "test_a_lora_in_the_other_naming_is_refused_with_the_command_that_converts_it",
        # test_models
        "test_a_base_describes_itself",
        "test_the_memory_of_a_training_step_is_estimated",
        "test_the_same_seed_builds_the_same_tiny_base",
        # test_moving
        "test_leaving_the_device_copies_nothing",
        "test_other_weights_are_really_used",
        "test_parts_that_take_turns_draw_the_same_picture",
        # test_precision
        "test_beside_float16_the_autoencoder_is_float32",
        # test_quantised
        "test_the_prediction_of_a_quantised_denoiser_is_close_to_that_of_the_plain_one",
        "test_a_lora_trained_on_a_quantised_base_has_the_same_names_and_fits_the_plain_one",
        # test_quantised_encoders
        "test_a_prompt_of_a_quantised_encoder_is_close_to_that_of_the_plain_one",
        # test_samplers
        "test_every_sampler_of_a_family_draws_another_picture_and_a_seed_means_one",
        # test_stopping
        "test_a_drawing_stops_within_one_step",
        # test_streamed
        "test_a_streamed_denoiser_draws_the_same_picture",
        "test_the_size_on_the_device_is_known_before_a_form_is_used",
        # test_training
        "test_a_checkpoint_of_a_training_at_several_resolutions_is_resumed_bit_for_bit",
        "test_the_family_is_told_how_each_photo_of_a_batch_was_framed",
        "test_a_fresh_lora_changes_nothing",
        "test_gradient_checkpointing_changes_nothing_but_memory",
        # test_vanilla_parity
        "test_without_a_lora_the_picture_equals_that_of_plain_diffusers",
        "test_a_trained_lora_draws_as_in_plain_diffusers",
        "test_in_bfloat16_the_pictures_are_still_equal",
        "test_each_setting_matters",
        "test_a_training_step_equals_that_of_diffusers_own_script",
    )
)
PEOPLE = {"example": portrait.Person.example(), "other": portrait.Person.other()}


def draw_photos(folder: Path, who: str, *, seed: int, count: int) -> list[Photo]:
    """Draw photos of a person of PEOPLE, 3:4, with captions."""
    photos = []
    for number, scene in enumerate(portrait.scenes(count, seed)):
        path = folder / f"{number}.jpg"
        portrait.draw(PEOPLE[who], scene, (192, 256)).save(path, quality=92)
        photos.append(Photo(path, f"a photo of {TRIGGER} person, {scene.caption}"))
    return photos


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _only_again_for_a_later_family(item)]


def _only_again_for_a_later_family(item: pytest.Item) -> bool:
    """Return True for a test of the loops that runs for the first two families, unless it names another itself."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if parameters.get("family", "flux") in FIRST_FAMILIES:
        return False
    named = any("family" in str(mark.args[0]) for mark in item.iter_markers("parametrize"))
    return not named and getattr(item, "originalname", "") not in OF_EVERY_FAMILY


@pytest.fixture(scope="session", autouse=True)
def watched_on_few_samples() -> Iterator[None]:
    """What a training is watched on would cost a short one of a tiny base more than its steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runaway, "PHOTOS", 1)
        patch.setattr(runaway, "DRAWS", 2)
        yield


@pytest.fixture(scope="session", params=EVERY_FAMILY)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def tiny_base(tiny_models: Path, family: str) -> Path:
    return tiny_models / f"tiny-{family}"


@pytest.fixture(scope="session")
def quick_config(family: str) -> LoraConfig:
    """QUICK_CONFIG at the learning rate that suits the family."""
    return replace(QUICK_CONFIG, learning_rate=LEARNING_RATES[family], **ROUNDS.get(family, {}))


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
    """Draw photos into a new folder, as `draw_photos` does."""
    return lambda who, *, seed, count: draw_photos(tmp_path_factory.mktemp(who), who, seed=seed, count=count)


@pytest.fixture(scope="session")
def photos(take_photos: Callable[..., list[Photo]]) -> list[Photo]:
    return take_photos("example", seed=0, count=12)


@pytest.fixture(scope="session")
def trained(base: Base, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> TrainedLora:
    """A LoRA of `example` that changes pictures, though after so few steps it shows nobody."""
    config = lora_config(steps=6, rank=16, learning_rate=3e-2, resolution=32)
    return finish(train(base, photos, config, Run(tmp_path_factory.mktemp("trained"), {"trigger_word": TRIGGER})))

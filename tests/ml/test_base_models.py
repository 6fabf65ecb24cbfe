from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.ml.families import only_flux, only_sd15
from worker.ml import models
from worker.ml.errors import ModelUnreadable
from worker.ml.families.tiny import flux1 as flux_tiny
from worker.ml.families.tiny import sd15 as sd15_tiny
from worker.ml.models import Base, Resident, plan_memory


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copied"))


def test_a_base_describes_itself(base: Base, family: str) -> None:
    assert (base.family, base.device.type, base.dtype) == (family, "cpu", torch.float32)
    assert base.memory_plan == "full, cpu, float32"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="flux-dev"):
        models.load(tmp_path / "flux-dev")


@pytest.mark.parametrize(
    ("family", "part"),
    [
        *(("flux", part) for part in ("transformer", "text_encoder_2", "tokenizer_2")),
        *(("sd15", part) for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")),
    ],
    indirect=["family"],
)
def test_a_base_without_a_part_is_refused_without_asking_a_hub(copied: Path, part: str) -> None:
    shutil.rmtree(copied / part)
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@pytest.mark.parametrize(
    ("family", "part"), [("flux", "transformer"), ("sd15", "unet"), ("sd15", "vae")], indirect=["family"]
)
def test_a_base_with_truncated_weights_is_refused(copied: Path, part: str) -> None:
    (weights,) = (copied / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@pytest.mark.parametrize(("family", "denoiser"), [("flux", "transformer"), ("sd15", "unet")], indirect=["family"])
def test_pickled_weights_are_not_loaded(copied: Path, denoiser: str) -> None:
    (weights,) = (copied / denoiser).glob("*.safetensors")
    weights.unlink()
    torch.save({}, copied / denoiser / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@only_sd15
def test_a_missing_safety_checker_is_accepted(copied: Path) -> None:
    """The published bases include one, of 1.2 GB, which people delete."""
    index = json.loads((copied / "model_index.json").read_text("utf-8"))
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (copied / "model_index.json").write_text(json.dumps(index))
    assert models.load(copied, "cpu").parts.safety_checker is None


@only_sd15
def test_a_base_with_another_kind_of_prediction_is_refused(copied: Path) -> None:
    file = copied / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "prediction_type": "sample"}))
    with pytest.raises(ModelUnreadable, match="predicts 'sample'"):
        models.load(copied, "cpu")


@only_flux
@pytest.mark.parametrize("index", ["", "[]", "{}", json.dumps({"_class_name": "StableDiffusionXLPipeline"})])
def test_other_families_and_damaged_indices_are_refused(copied: Path, index: str) -> None:
    (copied / "model_index.json").write_text(index)
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@only_flux
def test_a_resident_base_is_loaded_once_and_the_least_recently_used_one_is_dropped(
    tiny_base: Path, tmp_path: Path
) -> None:
    one, two, three = (Path(shutil.copytree(tiny_base, tmp_path / name)) for name in ("one", "two", "three"))
    resident = Resident("cpu", max_bases=2)
    first, second = resident.get(one), resident.get(two)
    assert resident.get(one) is first
    resident.get(three)
    assert resident.get(one) is first
    assert resident.get(two) is not second


PARTS = {"transformer": 22.2, "text_encoder_2": 8.9, "text_encoder": 0.2, "vae": 0.2}


@pytest.mark.parametrize(
    ("free_gib", "offloaded", "words"),
    [
        (None, False, "full, here"),
        (79.0, False, "full, here: needs 34.5 of 79.0 GiB free"),
        (31.0, True, "offloaded, here: needs 25.2 of 31.0 GiB free"),
        (15.0, True, "offloaded, here: may not fit: needs 25.2 of 15.0 GiB free"),
    ],
)
def test_the_memory_plan_follows_from_free_memory(free_gib: float | None, offloaded: bool, words: str) -> None:
    assert plan_memory(PARTS, 3.0, free_gib, "here") == (offloaded, words)


@pytest.mark.parametrize(("grid", "batch_size"), [((16, 16), 2), ((32, 24), 1)])
def test_the_memory_of_a_training_step_is_estimated(base: Base, grid: tuple[int, int], batch_size: int) -> None:
    """In bfloat16 under autocast, as on a GPU: the estimate decides about gradient checkpointing, and so the speed."""
    architecture = base.architecture
    parts = architecture.load(base.folder, torch.bfloat16)
    denoiser = architecture.modules(parts)[architecture.denoiser].requires_grad_(False)
    prompts = architecture.encode_prompts(parts, ["a photo"] * batch_size, base.device)
    generator = torch.Generator().manual_seed(0)
    sampler = architecture.sampler(parts, grid, 2, base.device, generator)
    noise = architecture.first_noise(parts, sampler, grid, generator, torch.bfloat16)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with architecture.new_lora(parts, 4, generator):
        own = {weights.untyped_storage().data_ptr() for weights in denoiser.parameters()}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            times = architecture.even_times(parts, batch_size)
            architecture.predict(parts, torch.cat([noise] * batch_size), times, prompts, grid, 1.0)
    size = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    assert 0.75 < size / architecture.activation_bytes(parts, grid, batch_size) < 1.05


def test_the_same_seed_builds_the_same_tiny_base(tiny_base: Path, family: str, tmp_path: Path) -> None:
    {"flux": flux_tiny, "sd15": sd15_tiny}[family].build_tiny(tmp_path)
    for path in tiny_base.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / path.relative_to(tiny_base)).read_bytes()

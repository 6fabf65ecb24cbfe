from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EDMDPMSolverMultistepScheduler, Flux2Transformer2DModel, UNet2DConditionModel

from tests.ml.families import only_flux, only_klein, only_sd15, only_sdxl
from tests.ml.runs import predict
from worker.ml import models
from worker.ml.errors import ModelUnreadable
from worker.ml.families.tiny import flux1 as flux_tiny
from worker.ml.families.tiny import klein as klein_tiny
from worker.ml.families.tiny import qwen_image as qwen_image_tiny
from worker.ml.families.tiny import sd15 as sd15_tiny
from worker.ml.families.tiny import sdxl as sdxl_tiny
from worker.ml.families.tiny import z_image as z_image_tiny
from worker.ml.models import Base, Store
from worker.ml.protocol import Sampling


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copied"))


def test_a_base_describes_itself(base: Base, family: str) -> None:
    assert (base.family.name, base.device.type, base.dtype) == (family, "cpu", torch.float32)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="flux-dev"):
        models.load(tmp_path / "flux-dev")


@pytest.mark.parametrize(
    ("family", "part"),
    [
        *(("flux", part) for part in ("transformer", "text_encoder_2", "tokenizer_2")),
        *(("klein", part) for part in ("text_encoder", "tokenizer")),
        *(("sd15", part) for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")),
        *(("sdxl", part) for part in ("text_encoder_2", "tokenizer_2")),
        ("z-image", "text_encoder"),
    ],
    indirect=["family"],
)
def test_a_base_without_a_part_is_refused_without_asking_a_hub(copied: Path, part: str) -> None:
    shutil.rmtree(copied / part)
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@pytest.mark.parametrize(
    ("family", "part"),
    [("flux", "transformer"), ("klein", "text_encoder"), ("sd15", "unet"), ("sd15", "vae")],
    indirect=["family"],
)
def test_a_base_with_truncated_weights_is_refused(copied: Path, part: str) -> None:
    (weights,) = (copied / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@pytest.mark.parametrize(
    ("family", "denoiser"), [("flux", "transformer"), ("klein", "transformer"), ("sd15", "unet")], indirect=["family"]
)
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


@only_sd15
def test_stable_diffusion_2_is_refused_though_it_has_the_same_pipeline(copied: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(copied / "unet")
    UNet2DConditionModel.from_config({**unet.config, "use_linear_projection": True}).save_pretrained(copied / "unet")
    with pytest.raises(ModelUnreadable, match="Stable Diffusion 2"):
        models.load(copied, "cpu")


@only_klein
def test_a_larger_model_of_the_same_pipeline_is_refused(copied: Path) -> None:
    transformer = Flux2Transformer2DModel.from_pretrained(copied / "transformer")
    Flux2Transformer2DModel.from_config({**transformer.config, "num_layers": 8}).save_pretrained(copied / "transformer")
    with pytest.raises(ModelUnreadable, match="has 8 and 1 blocks, which is unsupported; supported: the 4B model"):
        models.load(copied, "cpu")


@only_klein
def test_a_base_whose_scheduler_its_pipeline_does_not_have_is_refused(copied: Path) -> None:
    DDIMScheduler().save_pretrained(copied / "scheduler")
    index = json.loads((copied / "model_index.json").read_text("utf-8"))
    (copied / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]}))
    with pytest.raises(ModelUnreadable, match="has the scheduler DDIMScheduler, which is unsupported"):
        models.load(copied, "cpu")


@only_sdxl
def test_a_base_of_edms_formulation_is_refused_though_it_has_the_same_pipeline(copied: Path) -> None:
    """It is noised, and its denoiser's input scaled, in another way."""
    EDMDPMSolverMultistepScheduler().save_pretrained(copied / "scheduler")
    index = json.loads((copied / "model_index.json").read_text("utf-8"))
    index["scheduler"] = ["diffusers", "EDMDPMSolverMultistepScheduler"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnreadable, match="has the scheduler EDMDPMSolverMultistepScheduler"):
        models.load(copied, "cpu")


@only_flux
@pytest.mark.parametrize("index", ["", "[]", "{}", json.dumps({"_class_name": "StableDiffusionXLImg2ImgPipeline"})])
def test_other_families_and_damaged_indices_are_refused(copied: Path, index: str) -> None:
    (copied / "model_index.json").write_text(index)
    with pytest.raises(ModelUnreadable, match="copied"):
        models.load(copied, "cpu")


@pytest.mark.parametrize(("grid", "batch_size"), [((16, 16), 2), ((32, 24), 1)])
def test_the_memory_of_a_training_step_is_estimated(base: Base, grid: tuple[int, int], batch_size: int) -> None:
    """In bfloat16 under autocast, as on a GPU: the estimate decides about gradient checkpointing, and so the speed."""
    base = models.load(base.folder, "cpu", torch.bfloat16)
    family, parts, denoiser = base.family, base.parts, base.denoiser
    prompts = family.encode_prompts(parts, ["a photo"] * batch_size, base.device)
    generator = torch.Generator().manual_seed(0)
    sampler = family.sampler(parts, Sampling(grid, 2), base.device, generator)
    noise = family.first_noise(parts, sampler, grid, generator, torch.bfloat16)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with family.new_lora(parts, 4, generator):
        own = {weights.untyped_storage().data_ptr() for weights in denoiser.parameters()}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            times = family.even_times(parts, batch_size)
            predict(base, torch.cat([noise] * batch_size), times, prompts, grid)
    size = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    assert 0.75 < size / family.activation_bytes(parts, grid, batch_size) < 1.05


def test_the_same_seed_builds_the_same_tiny_base(tiny_base: Path, family: str, tmp_path: Path) -> None:
    builders = {
        "flux": flux_tiny,
        "klein": klein_tiny,
        "qwen-image": qwen_image_tiny,
        "sd15": sd15_tiny,
        "sdxl": sdxl_tiny,
        "z-image": z_image_tiny,
    }
    builders[family].build_tiny(tmp_path)
    for path in tiny_base.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / path.relative_to(tiny_base)).read_bytes()


# -- the store


class Slab:
    """A model of so many bytes that cannot be mapped from its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.anonymous_bytes = path.stat().st_size


class Mapped(Slab):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.anonymous_bytes = 0


@pytest.fixture
def slabs(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"slab-{number}" / "model.safetensors" for number in range(3)]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(bytes(1000))
    return files


def test_a_model_is_loaded_once_and_the_least_recently_used_one_is_unloaded_and_named(slabs: list[Path]) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=2500)
    first, second = store.get(slabs[0], Slab), store.get(slabs[1], Slab)
    assert store.get(slabs[0], Slab) is first
    assert said == []
    store.get(slabs[2], Slab)
    assert len(said) == 1
    assert "unloaded slab-1 to load slab-2" in said[0]
    assert store.get(slabs[0], Slab) is first
    assert store.get(slabs[1], Slab) is not second


def test_models_whose_weights_are_mapped_from_files_are_kept(slabs: list[Path]) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=1500)
    models = [store.get(path, Mapped) for path in slabs]
    assert [store.get(path, Mapped) for path in slabs] == models
    assert said == []


def test_a_model_that_becomes_larger_than_its_file_unloads_others_too(slabs: list[Path]) -> None:
    def widen(path: Path) -> Slab:
        slab = Slab(path)
        slab.anonymous_bytes *= 2
        return slab

    said: list[str] = []
    store = Store(said.append, limit_bytes=2500)
    first = store.get(slabs[0], Slab)
    store.get(slabs[1], widen)
    assert len(said) == 1
    assert store.get(slabs[0], Slab) is not first


def test_a_model_whose_unloading_frees_nothing_is_kept(slabs: list[Path]) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=1500)
    mapped = store.get(slabs[0], Mapped)
    store.get(slabs[1], Slab)
    store.get(slabs[2], Slab)
    assert store.get(slabs[0], Mapped) is mapped
    assert len(said) == 1


def test_parts_of_a_base_that_are_links_are_counted(slabs: list[Path], tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=1500)
    store.get(slabs[0], Slab)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "vae").symlink_to(slabs[1].parent)
    store.get(tmp_path / "base", lambda _: Mapped(slabs[1]))
    assert len(said) == 1


def test_weights_of_a_guide_beside_its_folders_are_counted(slabs: list[Path]) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=1500)
    store.get(slabs[0], Slab)
    store.get(slabs[1].parent, lambda _: Mapped(slabs[1]))
    assert len(said) == 1


def test_a_file_beside_the_parts_of_a_base_is_not_loaded_and_not_counted(slabs: list[Path]) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=1500)
    store.get(slabs[0], Slab)
    (slabs[1].parent / "model_index.json").touch()
    store.get(slabs[1].parent, lambda _: Mapped(slabs[1]))
    assert said == []


def test_a_model_larger_than_the_limit_is_loaded_alone(slabs: list[Path]) -> None:
    said: list[str] = []
    store = Store(said.append, limit_bytes=500)
    assert [store.get(path, Slab).path for path in slabs] == slabs
    assert len(said) == 2


def test_a_model_that_is_loaded_in_two_ways_is_kept_in_both(slabs: list[Path]) -> None:
    store = Store(lambda _: None)
    one, other = store.get(slabs[0], Slab, variant="one"), store.get(slabs[0], Mapped, variant="other")
    assert store.get(slabs[0], Slab, variant="one") is one
    assert store.get(slabs[0], Mapped, variant="other") is other


@only_flux
def test_only_the_base_that_was_asked_for_last_is_on_the_device(
    tiny_base: Path, copied: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(0)
    store = Store(lambda _: None)
    masters = store.base(tiny_base).denoiser.x_embedder.weight.data_ptr()
    store.base(tiny_base).place("transformer")
    assert store.base(tiny_base).denoiser.x_embedder.weight.data_ptr() != masters
    store.base(copied)
    assert store.base(tiny_base).denoiser.x_embedder.weight.data_ptr() == masters


def test_a_model_that_cannot_be_loaded_is_not_kept(slabs: list[Path]) -> None:
    store = Store(lambda _: None)

    def fail(path: Path) -> Slab:
        raise ModelUnreadable(path.name)

    with pytest.raises(ModelUnreadable):
        store.get(slabs[0], fail)
    assert isinstance(store.get(slabs[0], Slab), Slab)

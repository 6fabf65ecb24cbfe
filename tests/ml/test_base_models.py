from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from worker.ml import base_models
from worker.ml.architectures.flux_tiny import build_tiny
from worker.ml.base_models import Base, Resident, plan_memory
from worker.ml.errors import ModelUnreadable


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copied"))


def test_a_base_says_what_it_is(base: Base) -> None:
    assert (base.family, base.device.type, base.dtype) == ("flux", "cpu", torch.float32)
    assert base.memory_plan == "full, cpu, float32"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="flux-dev"):
        base_models.load(tmp_path / "flux-dev")


@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"]
)
def test_a_base_that_lacks_a_part_is_refused_without_asking_a_hub(copied: Path, part: str) -> None:
    shutil.rmtree(copied / part)
    with pytest.raises(ModelUnreadable, match="copied"):
        base_models.load(copied, "cpu")


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_base_with_truncated_weights_is_refused(copied: Path, part: str) -> None:
    (weights,) = (copied / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelUnreadable, match="copied"):
        base_models.load(copied, "cpu")


def test_pickled_weights_are_not_loaded(copied: Path) -> None:
    (weights,) = (copied / "transformer").glob("*.safetensors")
    weights.unlink()
    torch.save({}, copied / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelUnreadable, match="copied"):
        base_models.load(copied, "cpu")


@pytest.mark.parametrize("index", ["", "[]", "{}", json.dumps({"_class_name": "StableDiffusionPipeline"})])
def test_other_families_and_damaged_indices_are_refused(copied: Path, index: str) -> None:
    (copied / "model_index.json").write_text(index)
    with pytest.raises(ModelUnreadable, match="copied"):
        base_models.load(copied, "cpu")


def test_a_resident_base_is_loaded_once_and_the_least_recently_used_goes(tiny_base: Path, tmp_path: Path) -> None:
    one, two, three = (Path(shutil.copytree(tiny_base, tmp_path / name)) for name in ("one", "two", "three"))
    resident = Resident("cpu", most=2)
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


def test_the_same_seed_builds_the_same_tiny_base(tiny_base: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path)
    for path in tiny_base.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / path.relative_to(tiny_base)).read_bytes()

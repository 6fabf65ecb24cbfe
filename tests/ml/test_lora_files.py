from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from worker.ml import lora_files
from worker.ml.architectures.flux import Flux
from worker.ml.base_models import Base
from worker.ml.errors import ModelUnreadable
from worker.ml.generate import LoraUse, PictureRequest, generate
from worker.ml.train_lora import LoraConfig, TrainedLora, file_metadata

DATA = Path(__file__).parent.parent / "data"
A, B = ("transformer.single_transformer_blocks.0.attn.to_q.lora_" + side + ".weight" for side in "AB")
PAIR = {A: torch.ones(2, 8), B: torch.ones(8, 2)}
REQUEST = PictureRequest("a photo", negative_prompt=None, width=32, height=32, steps=1, guidance=1.0, seed=0)


def test_names_and_shapes_are_those_that_diffusers_writes(tmp_path: Path) -> None:
    """The list was written by `FluxPipeline.save_lora_weights` for a transformer of this configuration, rank 4."""
    lines = (DATA / "flux_diffusers_peft_keys.txt").read_text("utf-8").splitlines()
    expected = dict(line.split("\t") for line in lines if not line.startswith("#"))
    config = json.loads((DATA / "flux_tiny_config.json").read_text("utf-8"))["diffusers"]
    config.pop("_class_name")
    parts = SimpleNamespace(transformer=FluxTransformer2DModel(**config).requires_grad_(False))
    path = tmp_path / "lora.safetensors"
    with Flux().new_lora(parts, 4, torch.Generator().manual_seed(0)) as lora:
        lora_files.write(path, lora, {})
    written = {name: str(list(tensor.shape)) for name, tensor in load_file(path).items()}
    assert written == expected


def test_alpha_is_folded_in_and_nothing_else_is_stored(trained: TrainedLora) -> None:
    names = load_file(trained.path).keys()
    assert all(re.fullmatch(r"transformer\..+\.lora_[AB]\.weight", name) for name in names)
    _, alphas, metadata = FluxPipeline.lora_state_dict(trained.path, return_alphas=True, return_lora_metadata=True)
    assert not alphas
    assert not metadata


def test_the_header_says_what_the_file_is(base: Base, trained: TrainedLora) -> None:
    header = lora_files.read_header(trained.path)
    assert (header.family, header.rank) == ("flux", 16)
    said = header.metadata
    assert said["base"] == "tiny-flux"
    assert said["trigger_word"] == said["modelspec.trigger_phrase"] == "ohwx"
    assert said["modelspec.architecture"] == "flux-1-dev/lora"
    assert said["modelspec.sai_model_spec"] == "1.0.1"
    assert said["ss_base_model_version"] == "flux1"
    assert said["ss_network_dim"] == said["ss_network_alpha"] == "16"
    assert json.loads(said["ss_tag_frequency"]) == {"1_ohwx": {"ohwx": 12}}


def test_a_file_has_no_place_for_a_name(base: Base) -> None:
    with pytest.raises(ValueError, match="subject"):
        file_metadata(base, LoraConfig(steps=1), 1, {"subject": "Ada"})


def test_the_bytes_depend_on_what_is_written_alone(tmp_path: Path) -> None:
    """safetensors itself writes metadata in a random order."""
    metadata = {f"key{i}": str(i) for i in range(40)}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    first = lora_files.write(paths[0], PAIR, metadata)
    second = lora_files.write(paths[1], dict(reversed(PAIR.items())), dict(reversed(metadata.items())))
    assert first == second
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with safe_open(paths[0], framework="pt") as file:
        assert file.metadata().items() >= metadata.items()
        assert torch.equal(file.get_tensor(B), PAIR[B])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]


def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("lora.bin", "lora.pt", "lora.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ModelUnreadable, match=re.escape(name)):
            lora_files.read_header(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"lora_unet_single_blocks_0_linear1.lora_down.weight": torch.ones(2, 8)},
        {**PAIR, A.replace("lora_A.weight", "alpha"): torch.tensor(1.0)},
        {A: PAIR[A]},
        {A: PAIR[A], B: torch.ones(8, 3)},
        {"unet.mid_block.lora_A.weight": torch.ones(2, 8), "unet.mid_block.lora_B.weight": torch.ones(8, 2)},
        {name.replace("single_transformer_blocks", "layers"): tensor for name, tensor in PAIR.items()},
    ],
    ids=["empty", "kohya", "alpha", "half", "ranks", "unet", "other family"],
)
def test_foreign_files_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelUnreadable, match=r"^foreign\.safetensors "):
        lora_files.read_header(path)


@pytest.mark.parametrize("size", [8, 4096])
def test_a_lora_of_another_size_is_refused_before_it_touches_the_base(base: Base, tmp_path: Path, size: int) -> None:
    """diffusers would pad the smaller one, and widen the base itself for the larger one."""
    path = tmp_path / "other.safetensors"
    lora_files.write(path, {A: torch.ones(2, size), B: torch.ones(size, 2)}, {})
    with pytest.raises(ModelUnreadable, match="does not fit"):
        list(generate(base, replace(REQUEST, loras=(LoraUse(path),))))
    assert base.parts.transformer.single_transformer_blocks[0].attn.to_q.in_features == 128


def test_a_lora_for_layers_the_base_lacks_is_refused(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    lora_files.write(path, {name.replace("blocks.0", "blocks.37"): t for name, t in PAIR.items()}, {})
    with pytest.raises(ModelUnreadable, match="does not fit"):
        list(generate(base, replace(REQUEST, loras=(LoraUse(path),))))

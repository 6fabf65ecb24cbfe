from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.ml.families import only_flux, only_klein, only_u_net, only_z_image
from tests.ml.geometry import CONFIGS
from tests.ml.keys import DATA, listed_keys
from tests.ml.runs import lora_config
from worker.ml.adapters import files as lora_files
from worker.ml.adapters.names import SIDES, Naming
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora as lora_families
from worker.ml.families.flux1 import Flux
from worker.ml.families.klein import Klein
from worker.ml.families.sd15 import StableDiffusion15
from worker.ml.families.sdxl import StableDiffusionXL
from worker.ml.families.z_image import ZImage
from worker.ml.models import Base
from worker.ml.train.metadata import file_metadata
from worker.ml.train.train_lora import TrainedLora

LAYERS = {
    "flux": "transformer.single_transformer_blocks.0.attn.to_q.lora_{}.weight",
    "klein": "diffusion_model.single_blocks.0.linear2.lora_{}.weight",
    "qwen-image": "diffusion_model.transformer_blocks.0.txt_mlp.net.2.lora_{}.weight",
    "sd15": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_{}.weight",
    "sdxl": "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_{}.weight",
    "z-image": "diffusion_model.layers.0.attention.to_q.lora_{}.weight",
}
INPUTS = {"klein": 4, "qwen-image": 4}
"""Of these layers, for each output, where it is not 1."""
A, B = (LAYERS["flux"].format(side) for side in "AB")
DOWN, UP = (LAYERS["sd15"].format(side) for side in ("down", "up"))
ALPHA = DOWN.replace("lora_down.weight", "alpha")
PAIR = {A: torch.ones(2, 8), B: torch.ones(8, 2)}
KOHYA = {DOWN: torch.ones(2, 64), UP: torch.ones(64, 2)}
KLEIN = {LAYERS["klein"].format("A"): torch.ones(2, 32), LAYERS["klein"].format("B"): torch.ones(8, 2)}
SDXL = {LAYERS["sdxl"].format("down"): torch.ones(2, 64), LAYERS["sdxl"].format("up"): torch.ones(64, 2)}
Z_IMAGE = {LAYERS["z-image"].format("A"): torch.ones(2, 8), LAYERS["z-image"].format("B"): torch.ones(8, 2)}
QWEN_IMAGE = {LAYERS["qwen-image"].format("A"): torch.ones(2, 32), LAYERS["qwen-image"].format("B"): torch.ones(8, 2)}
PAIRS = {"flux": PAIR, "klein": KLEIN, "qwen-image": QWEN_IMAGE, "sd15": KOHYA, "sdxl": SDXL, "z-image": Z_IMAGE}


def family_of(path: Path) -> str:
    return lora_families.family_of(path.name, lora_files.read_header(path).layers).family


REQUEST = PictureRequest("a photo", negative_prompt=None, width=32, height=32, steps=2, guidance=1.0, seed=0)


# -- what is written


def test_flux_names_and_shapes_are_those_that_diffusers_writes(tmp_path: Path) -> None:
    """The list was written by `FluxPipeline.save_lora_weights` for a transformer of this configuration, rank 4."""
    config = json.loads((DATA / "flux_tiny_config.json").read_text("utf-8"))["diffusers"]
    config.pop("_class_name")
    parts = SimpleNamespace(transformer=FluxTransformer2DModel(**config).requires_grad_(False))
    path = tmp_path / "lora.safetensors"
    with Flux().new_lora(parts, 4, torch.Generator().manual_seed(0)) as lora:
        lora_files.write(path, lora, {})
    written = {name: list(tensor.shape) for name, tensor in load_file(path).items()}
    assert written == listed_keys("flux_diffusers_peft_keys.txt")


def test_stable_diffusion_names_and_shapes_are_those_that_sd_scripts_writes(tmp_path: Path) -> None:
    """For the U-Net of Stable Diffusion 1.5 itself. Nothing is computed, so it needs no weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        ).requires_grad_(False)
    path = tmp_path / "lora.safetensors"
    with StableDiffusion15().new_lora(SimpleNamespace(unet=unet), 4, torch.Generator()) as lora:
        lora_files.write(path, {name: torch.zeros(weights.shape) for name, weights in lora.items()}, {})
    written = {name: list(tensor.shape) for name, tensor in load_file(path).items()}
    assert written == listed_keys("sd15_kohya_unet_keys.txt")


def test_klein_names_and_shapes_are_those_that_ai_toolkit_writes(tmp_path: Path) -> None:
    """For the transformer of FLUX.2 klein 4B itself. Nothing is computed, so it needs no weights."""
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        ).requires_grad_(False)
    assert_written_as_by_ai_toolkit(tmp_path, Klein(), transformer, "klein4b")


@pytest.mark.slow
def test_z_image_names_and_shapes_are_those_that_ai_toolkit_writes(tmp_path: Path) -> None:
    """For the transformer of Z-Image itself. Nothing is computed, so it needs no weights."""
    config = json.loads((CONFIGS / "z-image.json").read_text("utf-8"))["transformer/config.json"]
    with torch.device("meta"):
        transformer = ZImageTransformer2DModel.from_config(config).requires_grad_(False)
    assert_written_as_by_ai_toolkit(tmp_path, ZImage(), transformer, "zimage")


def assert_written_as_by_ai_toolkit(folder: Path, family: Klein | ZImage, transformer: Any, lists: str) -> None:
    """The transformer is the published one, and its LoRA has the names and shapes of AI Toolkit's, in these lists."""
    listed = listed_keys(f"lora_formats/{lists}_base_diffusers_names.txt")
    assert {name: list(weights.shape) for name, weights in transformer.named_parameters()} == listed
    path = folder / "lora.safetensors"
    with family.new_lora(SimpleNamespace(transformer=transformer), 16, torch.Generator()) as lora:
        weights = {name: torch.zeros(weights.shape, dtype=torch.bfloat16) for name, weights in lora.items()}
    lora_files.write(path, weights, {})
    written = {name: list(tensor.shape) for name, tensor in load_file(path).items()}
    assert written == listed_keys(f"lora_formats/{lists}_ai_toolkit.txt")


@only_z_image
def test_diffusers_reads_a_z_image_lora_whole(trained: TrainedLora) -> None:
    """Without alpha, so that it takes the scale as 1."""
    read = ZImagePipeline.lora_state_dict(trained.path)
    assert not [name for name in load_file(trained.path) if name.endswith("alpha")]
    ours = lora_families.load(trained.path, "z-image")
    assert len(read) == 2 * len(ours)
    for layer, (a, b) in ours.items():
        assert torch.equal(read[f"transformer.{layer}.lora_A.weight"], a)
        assert torch.equal(read[f"transformer.{layer}.lora_B.weight"], b)


@only_klein
def test_layers_that_are_trained_as_one_have_one_a_and_a_b_of_all_rows(base: Base) -> None:
    attention = base.denoiser.transformer_blocks[0].attn
    x = torch.randn((2, 96), generator=torch.Generator().manual_seed(0))
    plain = [layer(x) for layer in (attention.to_q, attention.to_k, attention.to_v)]
    with base.family.new_lora(base.parts, 4, torch.Generator().manual_seed(0)) as lora:
        own = "diffusion_model.double_blocks.0.img_attn.qkv.lora_{}.weight"
        a, b = lora[own.format("A")], lora[own.format("B")]
        b.data += torch.randn(b.shape, generator=torch.Generator().manual_seed(1))
        changed = [layer(x) for layer in (attention.to_q, attention.to_k, attention.to_v)]
        assert len({id(weights) for weights in lora.values()}) == len(lora)
    torch.testing.assert_close(torch.cat(changed, 1) - torch.cat(plain, 1), x @ a.T @ b.T)


@only_klein
def test_diffusers_reads_a_klein_lora_without_alpha(trained: TrainedLora) -> None:
    """Its reader ends with an error where alpha is beside these names."""
    read, metadata = Flux2KleinPipeline.lora_state_dict(trained.path, return_lora_metadata=True)
    assert not [name for name in load_file(trained.path) if name.endswith("alpha")]
    assert "lora_adapter_metadata" not in (metadata or {})
    ours = lora_families.load(trained.path, "klein")
    assert len(read) == 2 * len(ours)
    for layer, (a, b) in ours.items():
        assert torch.equal(read[f"transformer.{layer}.lora_A.weight"], a)
        assert torch.equal(read[f"transformer.{layer}.lora_B.weight"], b)


@pytest.mark.slow
def test_sdxls_names_and_shapes_are_those_that_sd_scripts_writes() -> None:
    """For the U-Net of SDXL itself, at rank 16 in the list and 1 here. Nothing is computed, so it needs no weights."""
    config = json.loads((CONFIGS / "sdxl.json").read_text("utf-8"))["unet/config.json"]
    with torch.device("meta"):
        parts = SimpleNamespace(unet=UNet2DConditionModel.from_config(config).requires_grad_(False))
    with StableDiffusionXL().new_lora(parts, 1, torch.Generator()) as lora:
        written = {name: list(weights.shape) for name, weights in lora.items()}
    listed = listed_keys("sdxl_kohya_unet_keys.txt")
    assert written == {
        name: [1 if size == 16 else size for size in shape] for name, shape in listed.items() if shape != []
    }


@only_flux
def test_alpha_is_folded_in_and_nothing_else_is_stored(trained: TrainedLora) -> None:
    names = load_file(trained.path).keys()
    assert all(re.fullmatch(r"transformer\..+\.lora_[AB]\.weight", name) for name in names)
    _, alphas, metadata = FluxPipeline.lora_state_dict(trained.path, return_alphas=True, return_lora_metadata=True)
    assert not alphas
    assert not metadata


@only_u_net
def test_every_alpha_is_the_rank_so_that_the_scale_is_one(trained: TrainedLora) -> None:
    stored = load_file(trained.path)
    alphas = {name: tensor.item() for name, tensor in stored.items() if name.endswith(".alpha")}
    assert len(alphas) == len(stored) / 3
    assert set(alphas.values()) == {16.0}


@only_u_net
def test_diffusers_reads_back_exactly_what_was_trained(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    with base.family.new_lora(base.parts, 4, torch.Generator().manual_seed(0)) as lora:
        for weights in lora.values():
            weights.data += torch.rand(weights.shape, generator=torch.Generator().manual_seed(1))
        trained = {
            name: weights.detach().clone() for name, weights in base.parts.unet.named_parameters() if ".new." in name
        }
        lora_files.write(path, lora, {})
    pipeline = DiffusionPipeline.from_pretrained(base.folder, local_files_only=True, add_watermarker=False)
    pipeline.load_lora_weights(path, adapter_name="new")
    read = {name: weights for name, weights in pipeline.unet.named_parameters() if ".new." in name}
    assert read.keys() == trained.keys()
    assert all(torch.equal(read[name], trained[name]) for name in trained)
    scales = {layer.scaling["new"] for layer in pipeline.unet.modules() if hasattr(layer, "scaling")}
    assert scales == {1.0}


def test_the_header_describes_the_file(base: Base, family: str, trained: TrainedLora) -> None:
    header = lora_files.read_header(trained.path)
    assert (family_of(trained.path), header.rank) == (family, 16)
    expected = {
        "flux": {"modelspec.architecture": "flux-1-dev/lora", "ss_base_model_version": "flux1"},
        "klein": {"modelspec.architecture": "Flux.2-klein-4b/lora", "ss_base_model_version": "flux2_klein_4b"},
        "sd15": {
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "epsilon",
            "ss_base_model_version": "sd_v1",
            "ss_network_module": "networks.lora",
        },
        "sdxl": {
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.prediction_type": "epsilon",
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_network_module": "networks.lora",
        },
        "qwen-image": {"modelspec.architecture": "Qwen-Image/lora", "ss_base_model_version": "qwen_image"},
        "z-image": {"modelspec.architecture": "Z-Image/lora", "ss_base_model_version": "zimage"},
    }[family]
    metadata = header.metadata
    assert metadata.items() >= {"base": f"tiny-{family}", "family": family, **expected}.items()
    assert metadata["trigger_word"] == metadata["modelspec.trigger_phrase"] == "ohwx"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "16"
    assert json.loads(metadata["ss_tag_frequency"]) == {"1_ohwx": {"ohwx": 12}}


@only_u_net
def test_every_ss_name_is_one_that_sd_scripts_writes(trained: TrainedLora) -> None:
    known = set((DATA / "sd_scripts_metadata_keys.txt").read_text("utf-8").split())
    written = {name for name in lora_files.read_header(trained.path).metadata if name.startswith("ss_")}
    assert written <= known


@only_flux
def test_metadata_cannot_hold_a_persons_name(base: Base) -> None:
    with pytest.raises(ValueError, match="subject"):
        file_metadata(base, lora_config(steps=1), 1, {"subject": "Ada"})


def test_the_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
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


# -- what is read


@pytest.mark.parametrize("stated", [{"lora_alpha": 6}, {"alpha_pattern": {"attn.to_k": 1}}, {"use_rslora": True}])
def test_alpha_in_the_metadata_acts_as_in_diffusers(tmp_path: Path, stated: dict[str, Any]) -> None:
    """Newer scripts of diffusers state it there alone."""
    config = json.loads((DATA / "flux_tiny_config.json").read_text("utf-8"))["diffusers"]
    config.pop("_class_name")
    transformer = FluxTransformer2DModel(**config)
    own = LoraConfig(**{"r": 4, "lora_alpha": 2, "target_modules": ["to_q", "to_k"], **stated})
    transformer.add_adapter(own, adapter_name="default")
    for name, weights in transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=own.to_dict(),
    )
    read = lora_families.load(tmp_path / "pytorch_lora_weights.safetensors", "flux")
    adapted = {name: layer for name, layer in transformer.named_modules() if hasattr(layer, "get_delta_weight")}
    assert read.keys() == adapted.keys()
    for name, (a, b) in read.items():
        torch.testing.assert_close(b @ a, adapted[name].get_delta_weight("default"))


def test_layers_are_read_by_the_denoisers_own_names_at_scale_one(base: Base, family: str, trained: TrainedLora) -> None:
    stored = load_file(trained.path)
    denoiser = base.denoiser
    layers = dict(denoiser.named_modules())
    read = lora_families.load(trained.path, family)
    values = [tensor for name, tensor in stored.items() if not name.endswith(".alpha")]
    if family != "klein":  # whose files have query, key and value as one
        assert 2 * len(read) == len(values)
    for name, (a, b) in read.items():
        assert layers[name].weight.shape[:2] == (len(b), a.shape[1])
        assert any(torch.equal(a, own) for own in values)
        assert any(torch.equal(b, rows) for own in values for rows in own.split(len(b)))


# -- what is refused


def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("lora.bin", "lora.pt", "lora.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ModelUnreadable, match=re.escape(name)):
            lora_files.read_header(path)
        torch.save({"lora": torch.ones(1)}, path)
        with pytest.raises(ModelUnreadable, match=re.escape(name)):
            lora_files.read_header(path)
    assert not (tmp_path / "sprung").exists()


def with_header(header: object, data: bytes = b"\0" * 128) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 8], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"<html>404</html>",
        with_header(b"not json"),
        with_header({A: entry(0, 64), B: entry(64, 1024)}),
        with_header({A: entry(0, 64), B: entry(32, 96)}),
        with_header({A: entry(0, 64), B: {**entry(64, 128), "shape": [1 << 40, 2]}}),
        (1 << 62).to_bytes(8, "little") + b"{}",
        with_header({A: entry(0, 64), B: entry(64, 128)}, b"\0" * 100),
        with_header({"\x1b\0": entry(64, 128)}),
    ],
    ids=[
        "empty",
        "short",
        "a web page",
        "not json",
        "beyond the end",
        "overlapping",
        "a wrong shape",
        "huge header",
        "truncated",
        "a name with terminal codes",
    ],
)
def test_a_damaged_file_is_refused_by_its_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match=r"^broken\.safetensors is damaged") as refused:
        lora_files.read_header(path)
    assert str(tmp_path) not in str(refused.value)
    assert str(refused.value).isprintable()  # it is shown on a terminal and stored in a row


def renamed(pair: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {name.replace(old, new): tensor.clone() for name, tensor in pair.items()}


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "holds no LoRA"),
        ({A: PAIR[A]}, "incomplete"),
        ({A: PAIR[A], B: torch.ones(8, 3)}, "incomplete"),
        ({DOWN: KOHYA[DOWN], ALPHA: torch.tensor(2.0)}, "incomplete"),
        ({A: torch.ones(0, 8), B: torch.ones(8, 0)}, "incomplete"),
        ({A: torch.ones(2, 0), B: torch.ones(8, 2)}, "incomplete"),
        ({A: torch.ones(8), B: torch.ones(8)}, "incomplete"),
        ({"\x1b[2J\0": torch.ones(8)}, r"'\\x1b\[2J\\x00' cannot be a layer's name"),
        ({**KOHYA, ALPHA: torch.ones(3)}, "incomplete"),
        ({**KOHYA, "betas": torch.ones(3)}, "holds betas"),
        ({**KOHYA, DOWN.replace("lora_down.weight", "dora_scale"): torch.ones(64)}, "is a DoRA"),
        ({**PAIR, A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(8)}, "is a DoRA"),
        ({**KOHYA, **renamed(KOHYA, "lora_unet_down", "lora_te_down")}, "text encoder"),
        ({**PAIR, **renamed(PAIR, "transformer.single", "text_encoder.single")}, "text encoder"),
        (renamed(KOHYA, "down_blocks_0_attentions_0", "input_blocks_1_1"), "of an unknown family"),
        (renamed(KOHYA, "attn1_to_q", "resnets_0_conv1"), "of an unknown family"),
        (renamed(PAIR, "single_transformer_blocks", "layers"), "of an unknown family"),
        ({**PAIR, B: torch.ones(1, 2)}, "of an unknown family: its layer .*to_q maps 8 to 1 features"),
        ({A: torch.ones(2, 8, dtype=torch.int8), B: torch.ones(8, 2, dtype=torch.int8)}, "holds I8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_a_plain_lora_of_a_known_family_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], why: str
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelUnreadable, match=rf"^foreign\.safetensors .*{why}"):
        family_of(path)


def family_by_listed_keys(path: Path, listed: dict[str, list[int]]) -> str:
    save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in listed.items()}, path)
    return family_of(path)


def in_kohyas_spelling(listed: dict[str, list[int]]) -> dict[str, list[int]]:
    """diffusers' own names flattened, as AI Toolkit and OneTrainer write U-Nets."""
    keys = (re.fullmatch(r"unet\.(.+)\.lora_([AB])\.weight", name) for name in listed)
    sides = {"A": "down", "B": "up"}
    names = [f"lora_unet_{key[1].replace('.', '_')}.lora_{sides[key[2]]}.weight" for key in keys if key]
    return dict(zip(names, listed.values(), strict=True))


@pytest.mark.parametrize("spelling", [dict, in_kohyas_spelling])
@pytest.mark.parametrize(
    "kept", [r"", r"transformer_blocks\.0\.", r"down_blocks.*transformer_blocks\.0\."], ids=["all", "flat", "known"]
)
def test_a_lora_for_sdxl_is_not_taken_for_one_of_sd_15(
    tmp_path: Path, kept: str, spelling: Callable[..., dict[str, list[int]]]
) -> None:
    """The names are those of SD 1.5's modules, in blocks that it has too ("known"): then only shapes tell."""
    listed = {
        name: shape for name, shape in listed_keys("sdxl_diffusers_peft_keys.txt").items() if re.search(kept, name)
    }
    assert len(listed) >= 64
    assert family_by_listed_keys(tmp_path / "sdxl.safetensors", spelling(listed)) == "sdxl"


def test_layers_that_two_families_share_tell_neither(tmp_path: Path) -> None:
    """Attention to itself in the middle of the U-Net, in diffusers' names, is the same in both."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    listed = {f"{layer}.lora_A.weight": [2, 1280], f"{layer}.lora_B.weight": [1280, 2]}
    with pytest.raises(ModelUnreadable, match="may be a LoRA for sd15 or sdxl"):
        family_by_listed_keys(tmp_path / "lora.safetensors", listed)


def test_the_published_names_and_shapes_tell_their_family(tmp_path: Path) -> None:
    for list_, family in (
        ("flux_diffusers_peft_keys.txt", "flux"),
        ("flux_kohya_keys.txt", "flux"),
        *((f"lora_formats/klein4b_{program}.txt", "klein") for program in ("ai_toolkit", "musubi_tuner")),
        ("sd15_diffusers_peft_keys.txt", "sd15"),
        ("sd15_kohya_unet_keys.txt", "sd15"),
        ("sdxl_diffusers_peft_keys.txt", "sdxl"),
        *((f"lora_formats/zimage_{program}.txt", "z-image") for program in ("ai_toolkit", "diffusers_script")),
    ):
        listed = {name: shape for name, shape in listed_keys(list_).items() if not name.startswith("text_encoder")}
        assert family_by_listed_keys(tmp_path / "lora.safetensors", listed) == family


@pytest.mark.parametrize(
    ("layer", "maps"),
    [
        ("transformer.single_transformer_blocks.20.attn.to_qkv_mlp_proj", (64, 576)),  # FLUX.2 with more blocks
        ("transformer.single_transformer_blocks.20.attn.to_out", (256, 64)),
        ("lora_unet_single_blocks_20_linear1", (64, 576)),
        ("lora_unet_double_blocks_5_img_mlp_0", (64, 384)),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", (64, 64)),  # SD 2: a linear layer
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", (1024, 320)),
        ("unet.up_blocks.2.attentions.0.transformer_blocks.3.attn2.to_k", (1280, 768)),  # the refiner of SDXL
        ("lora_unet_layers_0_attention_qkv", (96, 160)),  # Lumina 2, in which queries share a key
        ("transformer.transformer_blocks.60.img_mlp.net.2", (384, 96)),  # more blocks than Qwen-Image has
        ("transformer.transformer_blocks.0.img_mlp.gate_layer", (96, 288)),  # Qwen-Image-2.1
        ("transformer.layers.30.attention.to_q", (96, 96)),  # more blocks than Z-Image has
    ],
)
def test_a_layer_in_the_proportions_of_another_family_is_refused(
    tmp_path: Path, layer: str, maps: tuple[int, int]
) -> None:
    """These families' files name their layers as those that are known do, and differ in proportions."""
    naming: Naming = "kohya" if layer.startswith("lora_unet_") else "diffusers"
    path, (down, up) = tmp_path / "lora.safetensors", SIDES[naming]
    save_file({f"{layer}.{down}": torch.zeros(2, maps[0]), f"{layer}.{up}": torch.zeros(maps[1], 2)}, path)
    with pytest.raises(
        ModelUnreadable, match=f"unknown family: its layer {layer} maps {maps[0]} to {maps[1]} features"
    ):
        family_of(path)


def test_a_file_that_two_families_claim_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(PAIR, path)
    twin = replace(lora_families.NAMES["flux"], family="twin")
    monkeypatch.setitem(lora_families.NAMES, "twin", twin)
    with pytest.raises(ModelUnreadable, match="may be a LoRA for flux or twin: its layers exist in each"):
        family_of(path)


@pytest.fixture
def refusal(base: Base, tmp_path: Path) -> Callable[[dict[str, torch.Tensor]], str]:
    """Return the reason why a drawing refuses a file of these tensors, and check that the base is unchanged."""
    path = tmp_path / "other.safetensors"
    denoiser = base.denoiser

    def refuse(tensors: dict[str, torch.Tensor]) -> str:
        before = {name: tuple(weights.shape) for name, weights in denoiser.named_parameters()}
        save_file(tensors, path)
        with pytest.raises(ModelUnreadable, match=r"^other\.safetensors ") as refused:
            list(generate(base, replace(REQUEST, loras=(LoraUse(path),))))
        assert {name: tuple(weights.shape) for name, weights in denoiser.named_parameters()} == before
        return str(refused.value)

    return refuse


@pytest.mark.parametrize("size", [8, 4096])
def test_a_lora_of_another_size_is_refused_before_it_touches_the_base(
    family: str, refusal: Callable[..., str], size: int
) -> None:
    """diffusers would pad the smaller one, and widen the base for the larger one."""
    a, b = PAIRS[family]
    assert "does not fit" in refusal({a: torch.ones(2, size * INPUTS.get(family, 1)), b: torch.ones(size, 2)})


def test_a_lora_for_layers_the_base_lacks_is_refused(family: str, refusal: Callable[..., str]) -> None:
    old, new = {
        "flux": ("blocks.0", "blocks.37"),
        "klein": ("blocks.0", "blocks.19"),
        "sd15": ("down_blocks_0", "up_blocks_3"),
        "sdxl": ("middle_block_1_transformer_blocks_0", "middle_block_1_transformer_blocks_9"),
        "qwen-image": ("transformer_blocks.0", "transformer_blocks.59"),
        "z-image": ("layers.0", "layers.29"),
    }[family]
    assert "does not fit" in refusal(renamed(PAIRS[family], old, new))


def test_a_lora_of_another_family_is_refused(family: str, refusal: Callable[..., str]) -> None:
    for other in PAIRS.keys() - {family}:
        assert refusal(PAIRS[other]).endswith(f"is a LoRA for {other}, but the base is {family}")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(family: str, refusal: Callable[..., str], number: float) -> None:
    """They would make every picture black, and a training that diverged leaves them."""
    a, b = PAIRS[family].items()
    broken = a[1].clone()
    broken[1, 3] = number
    assert "not finite" in refusal({a[0]: broken, b[0]: b[1]})


def in_diffusers_names(layer: str) -> dict[str, torch.Tensor]:
    return {f"{layer}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}


def test_a_lora_in_the_other_naming_is_refused_with_the_command_that_converts_it(
    family: str, refusal: Callable[..., str]
) -> None:
    other = {
        "flux": {
            "lora_unet_single_blocks_0_linear2.lora_down.weight": torch.ones(2, 10),
            "lora_unet_single_blocks_0_linear2.lora_up.weight": torch.ones(2, 2),
        },
        "klein": {
            "transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight": torch.ones(2, 8),
            "transformer.single_transformer_blocks.0.attn.to_out.lora_B.weight": torch.ones(2, 2),
        },
        "qwen-image": in_diffusers_names("transformer.transformer_blocks.59.attn.to_q"),
        "sd15": in_diffusers_names("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
        "sdxl": in_diffusers_names("unet.mid_block.attentions.0.transformer_blocks.1.attn1.to_q"),
        "z-image": in_diffusers_names("transformer.layers.0.attention.to_q"),
    }[family]
    assert f"worker lora export other.safetensors --format {lora_families.NAMES[family].naming}" in refusal(other)


def test_a_lora_whose_training_diverged_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="not finite"):
        lora_files.write(tmp_path / "lora.safetensors", {**PAIR, A: torch.full((2, 8), float("nan"))}, {})
    assert not list(tmp_path.iterdir())

"""Z-Image: guidance of its own, prompts of lengths of their own, and the spellings of its LoRA and model files."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_z_image import RopeEmbedder
from safetensors.torch import load_file, save_file

from tests.ml import published_names, vanilla
from tests.ml.families import only_z_image
from tests.ml.runs import pictures, predict
from tests.ml.test_lora_spellings import State, assert_is_read, deltas_by_table, listed, saved, tensors
from tests.ml.test_single_files import (  # noqa: F401 - fixtures
    Importing,
    import_here,
    of_the_wrong_kind,
    parts_of,
    pictures_of,
    weights_of,
)
from tests.ml.test_vanilla_parity import PROMPT, REQUEST, SETTINGS, furthest
from worker.ml import models
from worker.ml.adapters import files as lora_files
from worker.ml.draw.generate import LoraUse, generate, resolve
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora as lora_families
from worker.ml.families.single_files import IMPORTERS, z_image
from worker.ml.models import Base
from worker.ml.single_files import parts
from worker.ml.train.train_lora import TrainedLora

# -- drawing


@only_z_image
@pytest.mark.parametrize(
    ("guidance", "dtype", "size"),
    [
        *((guidance, torch.float32, (32, 48)) for guidance in (0.0, 0.5)),
        (3.0, torch.bfloat16, (32, 32)),  # slow on a CPU
    ],
)
def test_a_negative_prompt_is_applied_from_guidance_0_as_plain_diffusers_does(
    base: Base, trained: TrainedLora, guidance: float, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    """Its guidance counts from 0; at 0 nothing is evaluated against, as Turbo is drawn with."""
    base = models.load(base.folder, "cpu", dtype)
    width, height = size
    request = replace(REQUEST, width=width, height=height, guidance=guidance, loras=(LoraUse(trained.path),))
    settings = SETTINGS | {"width": width, "height": height, "guidance_scale": guidance}
    settings |= {"loras": [(trained.path, 1)], "dtype": dtype}
    against = replace(request, negative_prompt="a red wall")
    (ours,), (nothing,) = (pictures(generate(base, one)) for one in (against, request))
    assert furthest(ours, vanilla.draw(base.folder, PROMPT, seed=11, negative_prompt="a red wall", **settings)) == 0
    assert furthest(nothing, vanilla.draw(base.folder, PROMPT, seed=11, **settings)) == 0
    assert (furthest(ours, nothing) > 0) == (guidance > 0) == resolve(base, against).negative_prompt_used


@only_z_image
def test_prompts_of_different_lengths_share_a_batch(base: Base) -> None:
    family, base_parts = base.family, base.parts
    texts = ("a photo", "a photo of a man in a park in a blue shirt, with glasses, by a lake in the evening light")
    prompts = [family.encode_prompts(base_parts, [text], base.device) for text in texts]
    assert len(prompts[0].tokens[0]) < 32 < len(prompts[1].tokens[0])  # padded to 32 and to 64
    both = prompts[0].join(prompts[1:])
    latents, time = torch.randn((2, 16, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    together = predict(base, latents, time, both, (4, 4))
    for row in range(2):
        alone = predict(base, latents[row : row + 1], time[row : row + 1], prompts[row], (4, 4))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
        taken = both.take(torch.arange(2) == row)
        assert torch.equal(predict(base, latents[row : row + 1], time[row : row + 1], taken, (4, 4)), alone)


def test_the_rotary_table_follows_its_part_to_another_device() -> None:
    """It is no buffer, so moving the transformer does not move it: diffusers does, when it is used."""
    rotary = RopeEmbedder(axes_dims=[8, 12, 12], axes_lens=[64, 16, 16])
    places = torch.zeros((5, 3), dtype=torch.int64)
    assert rotary(places).device.type == "cpu"
    assert rotary(places.to("meta")).device.type == "meta"
    assert {table.device.type for table in rotary.freqs_cis} == {"meta"}


@only_z_image
def test_larger_models_of_the_same_pipeline_are_refused(base: Base, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base.folder, tmp_path / "copied"))
    transformer = type(base.denoiser).from_config({**base.denoiser.config, "n_refiner_layers": 3})
    transformer.save_pretrained(copied / "transformer")
    with pytest.raises(ModelUnreadable, match="has 3 blocks and 3 refiners, which is unsupported; supported: Z-Image"):
        models.load(copied, "cpu")
    index = json.loads((copied / "model_index.json").read_text("utf-8"))
    (copied / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]}))
    with pytest.raises(ModelUnreadable, match="has the scheduler DDIMScheduler, which is unsupported"):
        models.load(copied, "cpu")


# -- LoRA files


SPELLINGS = {
    "ai_toolkit": "ComfyUI",
    "diffusers_script": "diffusers",
    "musubi_converted_to_comfyui": "kohya",
    "musubi_tuner": "kohya",
    "onetrainer_comfy": "ComfyUI",
    "onetrainer_diffusers": "diffusers",
    "onetrainer_legacy": "older diffusers",
}
NARROWER = 40
"""Lists at real size are read at this part of the width."""


def listed_narrower(program: str) -> dict[str, list[int]]:
    shapes = listed(f"zimage_{program}")
    return {name: [size if size in (16, 48) else size // NARROWER for size in shape] for name, shape in shapes.items()}


def expected_deltas(state: State) -> State:
    return deltas_by_table("zimage_name_map.tsv", state, NARROWER)


@pytest.mark.parametrize("program", SPELLINGS)
def test_every_spelling_is_named_and_converted(tmp_path: Path, program: str) -> None:
    state = tensors(listed_narrower(program))
    assert lora_files.read_header(saved(tmp_path, state)).naming == SPELLINGS[program]
    assert len(expected_deltas(state)) in (136, 210, 240)
    assert_is_read(tmp_path, state, "z-image", expected_deltas(state))


@pytest.mark.parametrize(
    ("program", "old", "new"),
    [
        ("onetrainer_diffusers", r"^transformer\.", ""),
        ("onetrainer_diffusers", r"^transformer\.", "base_model.model."),
        ("musubi_tuner", r"^lora_unet_", "lycoris_"),
        (
            "musubi_converted_to_comfyui",
            r"^lora_unet_layers_(\d+)_(attention|feed_forward)_",
            r"diffusion_model.layers.\1.\2.",
        ),
        ("onetrainer_comfy", r"^diffusion_model\.", "transformer."),
    ],
)
def test_spellings_that_diffusers_ignores_or_refuses_are_read(tmp_path: Path, program: str, old: str, new: str) -> None:
    """No prefix, PEFT's, LyCORIS'; query, key and value as one below `diffusion_model.`; alpha below `transformer.`"""
    renamed = {re.sub(old, new, name): shape for name, shape in listed_narrower(program).items()}
    state = tensors(renamed)
    alike = {re.sub("^lycoris_", "lora_unet_", name): tensor for name, tensor in state.items()}
    assert expected_deltas(alike)
    path = saved(tmp_path, state)
    header, names = lora_families.identify(path)
    pairs = names.to_diffusers(lora_files.read_pairs(path, header))
    expected = expected_deltas(alike)
    assert (names.family, pairs.keys()) == ("z-image", expected.keys())
    for layer, (a, b) in pairs.items():
        torch.testing.assert_close(b @ a, expected[layer], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own", [True, False], ids=["diffusers' names", "ComfyUI's names"])
def test_the_layers_at_the_ends_are_read_by_either_name(tmp_path: Path, own: bool) -> None:
    ends = {"all_x_embedder.2-1": "x_embedder", "all_final_layer.2-1.linear": "final_layer.linear"}
    ends |= {
        "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        "cap_embedder.1": "cap_embedder.1",
    }
    shapes = {}
    for diffusers, comfyui in ends.items():
        layer = f"diffusion_model.{diffusers if own else comfyui}"
        shapes |= {f"{layer}.lora_A.weight": [4, 64], f"{layer}.lora_B.weight": [96, 4]}
    state = tensors(listed_narrower("ai_toolkit") | shapes)
    assert expected_deltas(state).keys() >= {f"transformer.{name}" for name in ends}
    assert_is_read(tmp_path, state, "z-image", expected_deltas(state))


@only_z_image
def test_every_layer_of_our_own_files_is_one_that_comfyui_accepts(trained: TrainedLora) -> None:
    """Of the names in ComfyUI's table, those of the blocks' attention and feed-forward layers and modulations."""
    accepted = "diffusion_model.layers.0.attention.to_q", "diffusion_model.layers.0.adaLN_modulation.0"
    layers = {name.removesuffix(".lora_A.weight") for name in load_file(trained.path) if ".lora_A." in name}
    assert layers >= set(accepted)
    assert all(
        re.fullmatch(r"diffusion_model\.layers\.\d+\.(attention|feed_forward|adaLN_modulation)\..+", name)
        for name in layers
    )


# -- single files


@pytest.fixture(scope="module")
def single_files(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny base as the single files of ComfyUI users."""
    folder, part = tmp_path_factory.mktemp("z_image"), parts_of(tiny_models / "tiny-z-image")
    contents = {
        "transformer": published_names.z_image_transformer(part["transformer"]),
        "vae": published_names.autoencoder(part["vae"]),
        "qwen3": {f"model.{name}": tensor for name, tensor in part["text_encoder"].items()},
    }
    files = {name: folder / f"{name}.safetensors" for name in contents}
    files["transformer"] = folder / "z_image_bf16.safetensors"
    for name, content in contents.items():
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, files[name])
    return files


def test_a_base_imported_from_three_files_equals_it_bit_for_bit(
    tiny_models: Path,
    single_files: dict[str, Path],
    import_here: Importing,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Which family it is of, its tensors tell: FLUX.2 klein is three such files too."""
    original, models_dir = tiny_models / "tiny-z-image", tmp_path / "models"
    import_here("mine", **single_files, tokenizers=original, configs=original)
    assert "it is taken for the base, which is trained" in capsys.readouterr().out
    imported, theirs = (weights_of(folder) for folder in (models_dir / "mine", original))
    imported = {name.replace("text_encoder.model.", "text_encoder."): tensor for name, tensor in imported.items()}
    assert imported.keys() == theirs.keys()
    assert all(torch.equal(imported[name], theirs[name]) for name in imported)
    assert np.array_equal(pictures_of(models_dir / "mine"), pictures_of(original))


@only_z_image
@pytest.mark.parametrize(("name", "shift"), [("z_image_turbo_bf16", 3.0), ("Z-Image", 6.0)])
def test_the_name_of_the_file_tells_whether_it_is_turbo(
    base: Base, single_files: dict[str, Path], tmp_path: Path, name: str, shift: float
) -> None:
    """Its weights do not. Without the tiny model's scheduler, which would tell."""
    weights, configs = load_file(single_files["transformer"]), tmp_path / "configs"
    file = tmp_path / f"{name}.safetensors"
    save_file({f"model.diffusion_model.{key}": value for key, value in weights.items()}, file)
    for part in ("transformer", "vae", "text_encoder"):
        shutil.copytree(base.folder / part, configs / part)
    IMPORTERS["z-image"](tmp_path / "target", {**single_files, "transformer": file}, configs, lambda _: None)
    parts.copy_tokenizers(tmp_path / "target", base.folder, ["tokenizer"])
    assert models.load(tmp_path / "target", "cpu").parts.scheduler.config.shift == shift


@only_z_image
@of_the_wrong_kind
def test_a_file_of_the_wrong_kind_is_named(
    base: Base, single_files: dict[str, Path], tmp_path: Path, option: str, other: str, expected: str
) -> None:
    save_file({"double_blocks.0.img_mod.lin.weight": torch.ones(1)}, tmp_path / "flux.safetensors")
    known = {**single_files, "flux": tmp_path / "flux.safetensors"}
    with pytest.raises(ModelUnreadable, match=f"{known[other].name} {expected}"):
        IMPORTERS["z-image"](tmp_path / "target", {**single_files, option: known[other]}, base.folder, lambda _: None)


def test_every_name_of_the_published_model_is_known() -> None:
    """The real one without its values, by ComfyUI's names."""
    names = published_names.shapes_of("lora_formats/zimage_base_comfyui_names.txt")
    converted = z_image.transformer({name: torch.zeros(size, device="meta") for name, size in names.items()})
    expected = published_names.shapes_of("lora_formats/zimage_base_diffusers_names.txt")
    assert {name: tensor.shape for name, tensor in converted.items()} == expected
    assert z_image.transformer_shapes(parts.read_configs(z_image.BASE, None)) == expected

"""Qwen-Image: guidance of its own, prompts of lengths of their own, and the spellings of its LoRA and model files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from tests.ml import published_names, vanilla
from tests.ml.families import only_qwen_image
from tests.ml.runs import pictures, predict
from tests.ml.test_lora_spellings import State, saved, tensors
from tests.ml.test_single_files import weights_of
from tests.ml.test_vanilla_parity import PROMPT, REQUEST, SETTINGS, furthest
from worker.ml import models
from worker.ml.adapters import files as lora_files
from worker.ml.draw.generate import LoraUse, generate, resolve
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora as lora_families
from worker.ml.families.lora.qwen_image import IN_BLOCKS, SHAPES
from worker.ml.families.single_files import IMPORTERS, qwen_image
from worker.ml.models import Base
from worker.ml.single_files import parts
from worker.ml.train.train_lora import TrainedLora

# -- drawing


@only_qwen_image
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_negative_prompt_is_applied_as_plain_diffusers_does(
    base: Base, trained: TrainedLora, guidance: float
) -> None:
    """Its guidance keeps the length of each token. No negative prompt is a space, and up to 1 none is evaluated."""
    request = replace(REQUEST, steps=3, guidance=guidance, loras=(LoraUse(trained.path),))
    settings = {**SETTINGS, "num_inference_steps": 3, "guidance_scale": guidance, "loras": [(trained.path, 1)]}
    against = replace(request, negative_prompt="a red wall")
    (ours,), (nothing,) = (pictures(generate(base, one)) for one in (against, request))
    theirs = vanilla.draw(base.folder, PROMPT, seed=11, negative_prompt="a red wall", **settings)
    assert furthest(ours, theirs) == 0
    assert (furthest(ours, nothing) > 0) == (guidance > 1) == resolve(base, against).negative_prompt_used


@only_qwen_image
def test_prompts_of_different_lengths_share_a_batch(base: Base) -> None:
    family, base_parts = base.family, base.parts
    texts = ("a photo", "a photo of a man in a park in a blue shirt, with glasses")
    prompts = [family.encode_prompts(base_parts, [text], base.device) for text in texts]
    assert len(prompts[0].tokens[0]) < len(prompts[1].tokens[0])
    both = prompts[0].join(prompts[1:])
    latents, time = torch.randn((2, 16, 64), generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    together = predict(base, latents, time, both, (4, 4))
    for row in range(2):
        alone = predict(base, latents[row : row + 1], time[row : row + 1], prompts[row], (4, 4))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)


@only_qwen_image
def test_the_tokens_of_the_template_before_the_prompt_are_dropped_and_the_eyes_are_not_loaded(base: Base) -> None:
    (wanted,) = base.family.encode_prompts(base.parts, ["a man"], base.device).tokens
    assert len(wanted) == len(base.parts.tokenizer("a man<|im_end|>\n<|im_start|>assistant\n").input_ids)
    assert not [name for name, _ in base.parts.text_encoder.named_modules() if re.search("visual|lm_head", name)]


@only_qwen_image
def test_larger_models_of_the_same_pipeline_are_refused(base: Base, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base.folder, tmp_path / "copied"))
    config = {**base.denoiser.config, "num_layers": 61, "num_attention_heads": 1}
    type(base.denoiser).from_config(config).save_pretrained(copied / "transformer")
    with pytest.raises(ModelUnreadable, match="has 61 blocks, which is unsupported; supported: Qwen-Image, which has"):
        models.load(copied, "cpu")


# -- LoRA files


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[int, int]]:
    """The linear layers of the transformer of Qwen-Image itself, without weights: inputs and outputs by name."""
    config = parts.read_configs(qwen_image.PUBLISHED, None)["transformer/config.json"]
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config(config)
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in transformer.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def test_every_linear_layer_of_the_real_blocks_is_trained_as_ai_toolkit_trains_them(
    layers: dict[str, tuple[int, int]],
) -> None:
    """AI Toolkit takes the linear layers of the blocks, and writes them below `diffusion_model.`"""
    names = lora_families.NAMES["qwen-image"]
    in_blocks = {name for name in layers if name.startswith("transformer_blocks.")}
    assert in_blocks == {f"transformer_blocks.{block}.{layer}" for block in range(60) for layer in IN_BLOCKS}
    written = {names.key(f"{name}.lora_{side}.weight") for name in in_blocks for side in "AB"}
    assert written == {f"diffusion_model.{name}.lora_{side}.weight" for name in in_blocks for side in "AB"}
    assert (len(layers), len(written)) == (846, 1680)
    assert all(names.has(f"transformer.{name}", shape) for name, shape in layers.items())


@only_qwen_image
def test_diffusers_reads_a_lora_whole(trained: TrainedLora) -> None:
    """Without alpha, so that it takes the scale as 1."""
    read, ours = QwenImagePipeline.lora_state_dict(trained.path), lora_families.load(trained.path, "qwen-image")
    assert len(read) == 2 * len(ours)
    for layer, (a, b) in ours.items():
        assert torch.equal(read[f"transformer.{layer}.lora_A.weight"], a)
        assert torch.equal(read[f"transformer.{layer}.lora_B.weight"], b)


WIDTH = 8


def in_spelling(layer: str, name: str, sides: tuple[str, str], alpha: bool) -> Iterator[tuple[str, list[int]]]:
    """Yield the tensors of a layer at a small width."""
    inputs, outputs = next((shape for end, shape in SHAPES.items() if layer.endswith(end)), (1, 1))
    yield f"{name}.{sides[0]}.weight", [4, inputs * WIDTH]
    yield f"{name}.{sides[1]}.weight", [outputs * WIDTH, 4]
    if alpha:
        yield f"{name}.alpha", []


ATTENTION, MODULATION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"), ("img_mod.1", "txt_mod.1")
PEFT, KOHYA = ("lora_A", "lora_B"), ("lora_down", "lora_up")
SPELLINGS: dict[str, tuple[Callable[[str], str], tuple[str, str], bool, tuple[str, ...]]] = {
    "AI Toolkit": (lambda name: f"diffusion_model.{name}", PEFT, False, IN_BLOCKS),
    "diffusers' script": (lambda name: f"transformer.{name}", PEFT, False, ATTENTION),
    "musubi-tuner": (
        lambda name: f"lora_unet_{name.replace('.', '_')}",
        KOHYA,
        True,
        tuple(layer for layer in IN_BLOCKS if layer not in MODULATION),
    ),
    "without a prefix": (lambda name: name, KOHYA, True, IN_BLOCKS),
    "PEFT": (lambda name: f"base_model.model.{name}", PEFT, False, ATTENTION),
}
"""How each names a layer, and which of a block it trains: by the code that writes them, or by ComfyUI's that reads."""


@pytest.mark.parametrize("program", SPELLINGS)
def test_every_spelling_is_read_and_converted(tmp_path: Path, program: str) -> None:
    spelled, sides, alpha, trained = SPELLINGS[program]
    names = [f"transformer_blocks.{block}.{layer}" for block in (0, 59) for layer in trained]
    state = tensors(dict(pair for name in names for pair in in_spelling(name, spelled(name), sides, alpha)))
    path = saved(tmp_path, state)
    header, own = lora_families.identify(path)
    assert own.family == "qwen-image"
    pairs = own.to_diffusers(lora_files.read_pairs(path, header))
    for read in (pairs, *(own.to_diffusers(convert(pairs)) for convert in (own.to_comfyui, own.to_kohya))):
        assert read.keys() == {f"transformer.{name}" for name in names}
        for name in names:
            a, b = (state[f"{spelled(name)}.{side}.weight"] for side in sides)
            expected = b @ a * (state[f"{spelled(name)}.alpha"] / len(a) if alpha else 1)
            torch.testing.assert_close(read[f"transformer.{name}"][1] @ read[f"transformer.{name}"][0], expected)


@pytest.mark.parametrize(("block", "family"), [(18, "flux"), (19, "qwen-image"), (59, "qwen-image")])
def test_attention_alone_is_told_from_flux_by_the_number_of_blocks(tmp_path: Path, block: int, family: str) -> None:
    """Its layers have the same names and shapes in both."""
    layer = f"transformer.transformer_blocks.{block}.attn.to_q"
    state = {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    assert lora_families.identify(saved(tmp_path, state))[1].family == family


@pytest.mark.parametrize("says", ["qwen_image_edit", "Qwen-Image-Edit-Plus/lora", "Qwen-Image-Layered/lora"])
def test_a_lora_of_a_relative_is_refused_by_what_its_metadata_says(tmp_path: Path, says: str) -> None:
    """Their layers are the same."""
    layer = "diffusion_model.transformer_blocks.0.img_mod.1"
    state: State = {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(48, 2)}
    relative = re.match("qwen.image.(edit|layered)", says, re.IGNORECASE)
    assert relative
    with pytest.raises(ModelUnreadable, match=f"its metadata says '{says}', which is Qwen-Image-{relative[1].title()}"):
        lora_families.identify(saved(tmp_path, state, {"modelspec.architecture": says}))
    assert lora_families.identify(saved(tmp_path, state, {"ss_base_model_version": "qwen_image"}))


# -- single files


@pytest.fixture(scope="module")
def single_files(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny base as the single files of ComfyUI users, the transformer's weights rounded to float8."""
    folder, weights = tmp_path_factory.mktemp("qwen_image"), weights_of(tiny_models / "tiny-qwen-image")

    def part(name: str) -> State:
        return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}

    contents = {
        "transformer": {
            f"model.diffusion_model.{name}": tensor.to(torch.float8_e4m3fn)
            for name, tensor in part("transformer").items()
        },
        "vae": published_names.wan_autoencoder(part("vae")),
        "qwen25vl": part("text_encoder"),
    }
    files = {name: folder / f"{name}.safetensors" for name in contents}
    for name, content in contents.items():
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, files[name])
    return files


def test_a_base_imported_from_three_files_equals_it_but_for_fp8(
    tiny_models: Path, single_files: dict[str, Path], tmp_path: Path
) -> None:
    original, target = tiny_models / "tiny-qwen-image", tmp_path / "target"
    IMPORTERS["qwen-image"](target, single_files, original, lambda _: None)
    parts.copy_tokenizers(target, original, ["tokenizer"])
    imported, theirs = weights_of(target), weights_of(original)
    assert imported.keys() == theirs.keys()
    for name, tensor in theirs.items():
        rounded = tensor.to(torch.float8_e4m3fn).bfloat16() if name.startswith("transformer.") else tensor
        assert torch.equal(imported[name], rounded)
    assert pictures(generate(models.load(target, "cpu"), replace(REQUEST, width=32, height=32, steps=2)))


@only_qwen_image
@pytest.mark.parametrize(
    ("option", "other", "expected"),
    [
        ("transformer", "vae", "is not a transformer of this family: it is an autoencoder"),
        ("transformer", "qwen25vl", r"is not a transformer of this family: it is Qwen2\.5-VL"),
        ("transformer", "edit", "by its name it is Qwen-Image-Edit"),
        ("vae", "qwen25vl", "is not a vae of this family"),
        ("qwen25vl", "vae", "is not a text_encoder of this family"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named(
    base: Base, single_files: dict[str, Path], tmp_path: Path, option: str, other: str, expected: str
) -> None:
    """The weights of Qwen-Image-Edit are in the same names and shapes."""
    edit = tmp_path / "qwen_image_edit_2509_bf16.safetensors"
    save_file(load_file(single_files["transformer"]), edit)
    known = {**single_files, "edit": edit}
    with pytest.raises(ModelUnreadable, match=f"{known[other].name} .*{expected}"):
        IMPORTERS["qwen-image"](
            tmp_path / "target", {**single_files, option: known[other]}, base.folder, lambda _: None
        )


def test_every_name_of_the_published_autoencoder_is_known() -> None:
    """The real one without its values, in Wan's names."""
    expected = qwen_image.autoencoder_shapes(parts.read_configs(qwen_image.PUBLISHED, None))
    published = published_names.wan_autoencoder(
        {name: torch.zeros(size, device="meta") for name, size in expected.items()}
    )
    assert {"encoder.downsamples.0.residual.0.gamma", "decoder.upsamples.3.resample.1.weight", "conv2.bias"} <= {
        *published
    }
    converted = qwen_image.autoencoder(published)
    assert {name: tensor.shape for name, tensor in converted.items()} == expected

"""`worker models import`: a tiny base split into published single files, and put together again bit for bit."""

from __future__ import annotations

import inspect
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ml import published_names
from tests.tiny_models import TINY_BASE
from worker.commands import models_actions
from worker.commands.models import import_
from worker.errors import CommandRefused
from worker.ml import models
from worker.ml.draw.generate import Picture, PictureRequest, generate
from worker.ml.errors import ModelUnreadable
from worker.ml.families.registry import FAMILIES
from worker.ml.families.single_files import IMPORTERS, flux1, flux1_names, klein, ldm, qwen_image, sd15, sdxl, z_image
from worker.ml.networks import tiny as upscaler_tiny
from worker.ml.single_files import __main__ as single_files_main
from worker.ml.single_files import parts, shared_parts
from worker.ml.single_files.upscalers import import_upscaler
from worker.models import BaseModels, importing
from worker.models.converting import EXIT_REFUSED
from worker.models.manifest import read_manifest
from worker.models.single_files import SINGLE_FILES
from worker.settings import Settings

PUBLISHED = {
    "flux-dev": flux1.DEV,
    "flux-schnell": flux1.SCHNELL,
    "klein": klein.DISTILLED,
    "klein-base": klein.BASE,
    "qwen-image": qwen_image.PUBLISHED,
    "sd15": sd15.PUBLISHED,
    "sdxl": sdxl.PUBLISHED,
    "z-image": z_image.BASE,
    "z-image-turbo": z_image.TURBO,
}
PUBLISHED_SIZES = {
    "flux-dev": {
        "transformer": (flux1.transformer_shapes, 11_901_408_320),
        "vae": (shared_parts.autoencoder_shapes, 83_819_683),
        "text_encoder": (shared_parts.clip_shapes, 123_060_480),
        "text_encoder_2": (shared_parts.t5_shapes, 4_762_310_656),
    },
    "flux-schnell": {"transformer": (flux1.transformer_shapes, 11_891_178_560)},
    "klein": {
        "transformer": (klein.transformer_shapes, 3_875_544_576),
        "vae": (klein.autoencoder_shapes, 84_046_115 + 2 * 128),
        "text_encoder": (shared_parts.qwen3_shapes, 4_022_468_096),
    },
    "klein-base": {"transformer": (klein.transformer_shapes, 3_875_544_576)},
    "qwen-image": {
        "transformer": (qwen_image.transformer_shapes, 20_430_401_088),
        "vae": (qwen_image.autoencoder_shapes, 126_892_531),
        "text_encoder": (qwen_image.text_encoder_shapes, 8_292_166_656),
    },
    "sd15": {
        "unet": (ldm.unet_shapes, 859_520_964),
        "vae": (shared_parts.autoencoder_shapes, 83_653_863),
        "text_encoder": (shared_parts.clip_shapes, 123_060_480),
    },
    "sdxl": {
        "unet": (ldm.unet_shapes, 2_567_463_684),
        "vae": (shared_parts.autoencoder_shapes, 83_653_863),
        "text_encoder": (shared_parts.clip_shapes, 123_060_480),
        "text_encoder_2": (sdxl.second_encoder_shapes, 694_659_840),
    },
    "z-image": {
        "transformer": (z_image.transformer_shapes, 6_154_908_736),
        "vae": (shared_parts.autoencoder_shapes, 83_819_683),
        "text_encoder": (shared_parts.qwen3_shapes, 4_022_468_096),
    },
    "z-image-turbo": {"transformer": (z_image.transformer_shapes, 6_154_908_736)},
}


def import_model(models_dir: Path, slug: str, **options: Path) -> subprocess.CompletedProcess[str]:
    given = [word for name, path in options.items() for word in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "worker", "models", "import", slug, *given]
    env = {**os.environ, "MODELS_DIR": str(models_dir)}
    return subprocess.run(command, env=env, cwd=models_dir.parent, capture_output=True, text=True)


Importing = Callable[..., None]


@pytest.fixture
def import_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Importing:
    """Import a model to tmp_path/models in this process, which has long imported what the command would wait for.

    Raises CommandRefused.
    """

    def convert(request: dict[str, object]) -> None:
        said = io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
        try:
            with redirect_stderr(said):
                single_files_main.main()
        except SystemExit as ended:
            if ended.code != EXIT_REFUSED:
                raise
            raise CommandRefused(said.getvalue().strip().splitlines()[-1]) from None

    def imported(slug: str, tokenizers: Path | None = None, configs: Path | None = None, **files: Path) -> None:
        settings = Settings.load(storage=False, database=False)
        models_actions.import_(settings, slug, files, tokenizers, configs)

    monkeypatch.setattr(importing, "convert", convert)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return imported


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": tensor for part, weights in parts_of(folder).items() for name, tensor in weights.items()}


def parts_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of each part of a base in one file each."""
    return {file.parent.name: load_file(file) for file in sorted(folder.glob("*/*.safetensors"))}


def pictures_of(folder: Path) -> list[Any]:
    request = PictureRequest("a photo", negative_prompt=None, width=48, height=32, steps=2, guidance=3.0, seed=0)
    drawn = generate(models.load(folder, "cpu"), request)
    return [event.pixels for event in drawn if isinstance(event, Picture)]


def assert_is_the_same(imported: Path, original: Path) -> None:
    own, theirs = weights_of(imported), weights_of(original)
    own, theirs = ({name.replace("text_model.", ""): value for name, value in all.items()} for all in (own, theirs))
    assert set(own) == set(theirs)
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert np.array_equal(pictures_of(imported), pictures_of(original))


@pytest.fixture(scope="module")
def flux_files(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny FLUX base as the single files of ComfyUI users."""
    base, folder = tiny_models / TINY_BASE, tmp_path_factory.mktemp("published")

    part = parts_of(base)
    clip = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in part["text_encoder"].items()}
    clip["text_model.embeddings.position_ids"] = torch.arange(77)
    clip["logit_scale"] = torch.tensor(4.6)
    t5 = part["text_encoder_2"]
    t5["encoder.embed_tokens.weight"] = t5["shared.weight"].clone()
    contents = {
        "transformer": published_names.flux_transformer(part["transformer"]),
        "vae": published_names.autoencoder(part["vae"]),
        "clip": clip,
        "t5": t5,
    }
    for name, content in contents.items():
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in contents}


def test_flux_imported_from_four_files_equals_the_base_bit_for_bit(
    tiny_models: Path, flux_files: dict[str, Path], import_here: Importing, tmp_path: Path
) -> None:
    original = tiny_models / TINY_BASE
    done = import_model(tmp_path / "models", "mine", **flux_files, tokenizers=original, configs=original)
    assert done.returncode == 0, done.stderr
    assert_is_the_same(tmp_path / "models/mine", original)
    assert BaseModels(tmp_path / "models", None, "bucket").present() == ["mine"]
    manifest = read_manifest(tmp_path / "models/mine")
    assert manifest is not None
    assert manifest.origin is not None
    assert manifest.origin.source == "transformer.safetensors, vae.safetensors, clip.safetensors, t5.safetensors"
    with pytest.raises(CommandRefused, match="exists: delete it"):
        import_here("mine", **flux_files, tokenizers=original)


def test_sd15_imported_from_one_checkpoint_equals_the_base_bit_for_bit(
    tiny_models: Path, import_here: Importing, tmp_path: Path
) -> None:
    original = tiny_models / "tiny-sd15"
    part = parts_of(original)
    checkpoint = published_names.u_net(part["unet"], layers=1, blocks=2)
    checkpoint |= published_names.autoencoder(part["vae"], "first_stage_model.")
    for name, tensor in part["text_encoder"].items():
        checkpoint[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in checkpoint.items()}, tmp_path / "v1-5.safetensors")
    import_here("mine", checkpoint=tmp_path / "v1-5.safetensors", tokenizers=original, configs=original)
    assert_is_the_same(tmp_path / "models/mine", original)


@pytest.fixture(scope="module")
def klein_files(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny klein base as the single files of ComfyUI users."""
    folder, part = tmp_path_factory.mktemp("klein"), parts_of(tiny_models / "tiny-klein")
    contents = {
        "transformer": published_names.klein_transformer(part["transformer"]),
        "vae": published_names.klein_autoencoder(part["vae"]),
        "qwen3": part["text_encoder"],
    }
    files = {name: folder / f"{name}.safetensors" for name in contents}
    files["transformer"] = folder / "flux-2-klein-base-4b.safetensors"
    for name, content in contents.items():
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, files[name])
    return files


def test_klein_imported_from_three_files_equals_the_base_bit_for_bit(
    tiny_models: Path, klein_files: dict[str, Path], tmp_path: Path
) -> None:
    original = tiny_models / "tiny-klein"
    IMPORTERS["klein"](tmp_path / "mine", klein_files, original, lambda _: None)
    parts.copy_tokenizers(tmp_path / "mine", original, SINGLE_FILES["klein"].tokenizers)
    imported, theirs = (weights_of(folder) for folder in (tmp_path / "mine", original))
    assert theirs.keys() - imported.keys() == {"vae.bn.num_batches_tracked"}
    assert all(torch.equal(imported[name], theirs[name]) for name in imported)
    assert np.array_equal(pictures_of(tmp_path / "mine"), pictures_of(original))


@pytest.mark.parametrize(
    ("name", "distilled"), [("flux-2-klein-4b", True), ("FLUX.2-klein-Base-4B", False), ("mine", True)]
)
def test_the_name_of_kleins_file_tells_whether_it_is_the_base(
    tiny_models: Path, klein_files: dict[str, Path], tmp_path: Path, name: str, distilled: bool
) -> None:
    """Its weights do not. Below each of these prefixes; without the tiny model's index, which would tell."""
    weights = load_file(klein_files["transformer"])
    prefix = {"flux-2-klein-4b": "diffusion_model.", "mine": "model.diffusion_model."}.get(name, "")
    save_file({f"{prefix}{key}": value for key, value in weights.items()}, tmp_path / f"{name}.safetensors")
    configs, said = tmp_path / "configs", list[str]()
    for part in ("transformer", "vae", "text_encoder"):
        shutil.copytree(tiny_models / "tiny-klein" / part, configs / part)
    given = {**klein_files, "transformer": tmp_path / f"{name}.safetensors"}
    IMPORTERS["klein"](tmp_path / "target", given, configs, said.append)
    index = json.loads((tmp_path / "target/model_index.json").read_text("utf-8"))
    assert index["is_distilled"] == distilled
    assert ("it is taken for the distilled model, which draws" in said) == distilled


of_the_wrong_kind = pytest.mark.parametrize(
    ("option", "other", "expected"),
    [
        ("transformer", "vae", "is not a transformer of this family: it is an autoencoder"),
        ("transformer", "flux", r"is not a transformer of this family: it is FLUX\.1"),
        ("vae", "qwen3", "is not a vae of this family"),
        ("qwen3", "vae", "is not a text_encoder of this family"),
    ],
)


@of_the_wrong_kind
def test_a_file_of_the_wrong_kind_is_named_for_klein_too(
    tiny_models: Path, klein_files: dict[str, Path], tmp_path: Path, option: str, other: str, expected: str
) -> None:
    save_file({"double_blocks.0.img_mod.lin.weight": torch.ones(1)}, tmp_path / "flux.safetensors")
    known = {**klein_files, "flux": tmp_path / "flux.safetensors"}
    with pytest.raises(ModelUnreadable, match=f"{known[other].name} {expected}"):
        IMPORTERS["klein"](
            tmp_path / "target", {**klein_files, option: known[other]}, tiny_models / "tiny-klein", lambda _: None
        )


@pytest.fixture(scope="module")
def sdxl_checkpoint(tiny_models: Path) -> dict[str, torch.Tensor]:
    """The tiny SDXL base in the names of published checkpoints."""
    part = parts_of(tiny_models / "tiny-sdxl")
    checkpoint = published_names.u_net(part["unet"], layers=2, blocks=2)
    checkpoint |= published_names.autoencoder(part["vae"], "first_stage_model.")
    for name, tensor in part["text_encoder"].items():
        checkpoint[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    checkpoint |= published_names.open_clip(part["text_encoder_2"], "conditioner.embedders.1.model.")
    checkpoint["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    return {name: tensor.contiguous() for name, tensor in checkpoint.items()}


def import_sdxl(folder: Path, original: Path, checkpoint: dict[str, torch.Tensor]) -> Path:
    target, file = folder / "target", folder / "sd_xl.safetensors"
    save_file(checkpoint, file)
    parts.copy_tokenizers(target, original, SINGLE_FILES["sdxl"].tokenizers)
    IMPORTERS["sdxl"](target, {"checkpoint": file}, original, lambda _: None)
    return target


def test_sdxl_imported_from_one_checkpoint_equals_the_base_bit_for_bit(
    tiny_models: Path, sdxl_checkpoint: dict[str, torch.Tensor], import_here: Importing, tmp_path: Path
) -> None:
    """Which family it is of, its tensors tell: Stable Diffusion 1.5 is one checkpoint too."""
    original, file = tiny_models / "tiny-sdxl", tmp_path / "sd_xl.safetensors"
    save_file(sdxl_checkpoint, file)
    import_here("mine", checkpoint=file, tokenizers=original, configs=original)
    assert_is_the_same(tmp_path / "models/mine", original)


def test_a_checkpoint_of_sdxl_that_says_so_predicts_velocity(
    tiny_models: Path, sdxl_checkpoint: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    marked = sdxl_checkpoint | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    imported = import_sdxl(tmp_path, tiny_models / "tiny-sdxl", marked)
    scheduler = models.load(imported, "cpu").parts.scheduler.config
    assert (scheduler.prediction_type, scheduler.rescale_betas_zero_snr) == ("v_prediction", True)


def test_a_checkpoint_of_sdxl_without_one_of_its_text_encoders_is_refused_by_name(
    tiny_models: Path, sdxl_checkpoint: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    first, second = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    for missing, what in (
        (first, "holds no text_encoder: use a complete checkpoint"),
        (second, "holds no text_encoder_2: use a complete checkpoint"),
        (f"{second}text_projection", "holds no text_projection of its second text encoder"),
        (f"{second}ln_final.bias", "is not a text_encoder_2 of this family: 1 tensors are missing"),
        ("model.diffusion_model.label_emb.0.0.bias", "is not a SDXL checkpoint: 'label_emb.0.0.bias' is missing"),
    ):
        cut = {name: tensor for name, tensor in sdxl_checkpoint.items() if not name.startswith(missing)}
        with pytest.raises(ModelUnreadable, match=rf"^sd_xl\.safetensors {what}"):
            import_sdxl(tmp_path, tiny_models / "tiny-sdxl", cut)


@pytest.mark.parametrize("variant", PUBLISHED_SIZES)
def test_the_configurations_describe_models_of_the_published_sizes(variant: str) -> None:
    plan = parts.read_configs(PUBLISHED[variant], None)
    for part, (shapes, parameters) in PUBLISHED_SIZES[variant].items():
        assert sum(shape.numel() for shape in shapes(plan).values()) == parameters, part


def test_every_name_of_the_published_models_is_known() -> None:
    """A tiny FLUX, and the real klein and U-Net without their values."""
    shapes = published_names.shapes_of("flux_base_bfl_names.txt")
    published = {name: torch.zeros(size) for name, size in shapes.items()}
    converted = flux1_names.to_diffusers(published)
    expected = published_names.shapes_of("flux_base_diffusers_names.txt")
    assert {name: tensor.shape for name, tensor in converted.items()} == expected
    published = {
        name: torch.zeros(size, device="meta")
        for name, size in published_names.shapes_of("lora_formats/klein4b_base_bfl_names.txt").items()
    }
    converted = klein.transformer(published, Path("klein.safetensors"))
    expected = published_names.shapes_of("lora_formats/klein4b_base_diffusers_names.txt")
    assert {name: tensor.shape for name, tensor in converted.items()} == expected
    assert klein.transformer_shapes(parts.read_configs(klein.BASE, None)) == expected
    plan = parts.read_configs(sd15.PUBLISHED, None)
    unet, modules = published_names.shapes_of("sd15_base_diffusers_names.txt"), published_names.sd15_unet_modules()
    assert ldm.unet_shapes(plan) == unet
    original = {}
    for name, shape in unet.items():
        module, _, kind = name.rpartition(".")
        original[f"model.diffusion_model.{modules[module]}.{kind}"] = torch.empty(shape, device="meta")
    renamed = ldm.convert_ldm_unet_checkpoint(original, plan["unet/config.json"])
    assert {name: tensor.shape for name, tensor in renamed.items()} == unet


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vae": "clip"}, "clip.safetensors is not a vae of this family: [0-9]+ tensors are missing"),
        ({"t5": "clip"}, "clip.safetensors is not a text_encoder_2 of this family: [0-9]+ tensors are missing"),
        ({"transformer": "vae"}, "vae.safetensors is not a transformer of this family"),
        ({"transformer": "int8"}, r"int8.safetensors is quantised \(int8\): use the file in bf16"),
        ({"transformer": "cut"}, "cut.safetensors cannot be read"),
        ({"clip": "ckpt"}, "clip.ckpt: unsupported file type, only .safetensors files are read"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named(
    tiny_models: Path, flux_files: dict[str, Path], tmp_path: Path, changes: dict[str, str], expected: str
) -> None:
    save_file({"img_in.weight": torch.zeros(4, 4).to(torch.int8)}, tmp_path / "int8.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(flux_files["transformer"].read_bytes()[:1000])
    (tmp_path / "clip.ckpt").write_bytes(b"0")
    others = {"int8": "int8.safetensors", "cut": "cut.safetensors", "ckpt": "clip.ckpt"}
    known = {**flux_files, **{name: tmp_path / file for name, file in others.items()}}
    given = {**flux_files, **{name: known[other] for name, other in changes.items()}}
    with pytest.raises(ModelUnreadable, match=expected):
        IMPORTERS["flux"](tmp_path / "target", given, tiny_models / TINY_BASE, lambda _: None)


def test_each_listed_family_can_be_imported_and_the_command_has_an_option_for_each_file() -> None:
    assert SINGLE_FILES.keys() == IMPORTERS.keys() <= FAMILIES.keys()
    options = inspect.signature(import_).parameters
    assert {*chain(*((*made_of.files, *made_of.optional) for made_of in SINGLE_FILES.values()))} <= options.keys()


def test_a_refused_import_leaves_nothing_behind(
    tiny_models: Path, flux_files: dict[str, Path], import_here: Importing, tmp_path: Path
) -> None:
    base, models = tiny_models / TINY_BASE, tmp_path / "models"
    wrong = {**flux_files, "t5": flux_files["clip"]}
    unreadable = tmp_path / "unreadable"
    (unreadable / "tokenizer").mkdir(parents=True)
    (unreadable / "tokenizer" / "tokenizer.json").symlink_to("/proc/self/mem")
    (tmp_path / "nothing").mkdir()
    made_of = (
        "FLUX.1 is made of --transformer, --vae, --clip and --t5; "
        "FLUX.2 klein 4B is made of --transformer, --vae and --qwen3; "
        "Qwen-Image is made of --transformer, --vae and --qwen25vl; "
        "Stable Diffusion 1.5 is made of --checkpoint and, optionally, --vae; "
        "SDXL is made of --checkpoint and, optionally, --vae; "
        "Z-Image is made of --transformer, --vae and --qwen3"
    )
    right, not_t5 = {"tokenizers": base, "configs": base}, "clip.safetensors is not a text_encoder_2 of this family"
    without_t5 = {name: file for name, file in flux_files.items() if name != "t5"}
    for files, options, expected in (
        (wrong, right, not_t5),
        (without_t5, {"tokenizers": base}, made_of),
        ({}, {}, made_of),
        (flux_files, {}, "DIR is a folder with tokenizer/ and tokenizer_2/"),
        (flux_files, {"tokenizers": tmp_path / "nothing"}, "tokenizer not found in "),
        (flux_files, {"tokenizers": unreadable, "configs": base}, "Input/output error"),
    ):
        with pytest.raises(CommandRefused, match=re.escape(expected)):
            import_here("mine", **files, **options)
        assert [path.name for path in models.glob("*") if path.name != ".locks"] == []
    done = import_model(models, "mine", **wrong, **right)
    assert (done.returncode, not_t5 in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    assert [path.name for path in models.glob("*") if path.name != ".locks"] == []


class TestUpscalers:
    def test_the_official_pickle_becomes_safetensors(self, import_here: Importing, tmp_path: Path) -> None:
        upscaler_tiny.build_tiny(tmp_path / "x4.safetensors", 4)
        weights = load_file(tmp_path / "x4.safetensors")
        torch.save({"params_ema": weights, "params": {}}, tmp_path / "RealESRGAN_x4plus.pth")
        models = tmp_path / "models"
        import_here("real-esrgan-x4", upscaler=tmp_path / "RealESRGAN_x4plus.pth")
        written = load_file(models / "real-esrgan-x4/model.safetensors")
        assert set(written) == set(weights)
        assert all(torch.equal(written[name], weights[name]) for name in weights)
        assert BaseModels(models, None, "bucket").present() == ["real-esrgan-x4"]
        with pytest.raises(ModelUnreadable, match="enlarges by 4, not by 2"):
            import_upscaler(tmp_path / "RealESRGAN_x4plus.pth", tmp_path / "x2" / "model.safetensors", 2)

    @pytest.mark.parametrize("content", [b"eversion https://example.org", b"\x80\x02", b"not weights", b""])
    def test_a_file_that_is_not_a_pickle_is_refused(self, tmp_path: Path, content: bytes) -> None:
        """Some of them raise KeyError inside torch."""
        (tmp_path / "cut.pth").write_bytes(content)
        with pytest.raises(ModelUnreadable, match=r"cut\.pth is not a file of weights alone"):
            import_upscaler(tmp_path / "cut.pth", tmp_path / "x4" / "model.safetensors", 4)

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_a_file_that_cannot_be_read_is_named_with_the_reason(
        self, import_here: Importing, tmp_path: Path, suffix: str
    ) -> None:
        given = tmp_path / f"RealESRGAN.{suffix}"
        given.symlink_to("/proc/self/mem")  # its beginning cannot be read, not even by root
        with pytest.raises(CommandRefused) as refused:
            import_here("real-esrgan-x4", upscaler=given)
        assert f"{given.name} cannot be copied (Input/output error)" in str(refused.value)
        assert "MODELS_DIR" not in str(refused.value)

    def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "owned"),)

        torch.save({"params_ema": Evil()}, tmp_path / "evil.pth")
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
        for name in ("evil.pth", "plain.pth"):
            with pytest.raises(ModelUnreadable, match=f"{name} is not a file of weights alone"):
                import_upscaler(tmp_path / name, tmp_path / "x4" / "model.safetensors", 4)
        assert not (tmp_path / "owned").exists()

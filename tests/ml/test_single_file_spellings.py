"""`worker models import`: the spellings and damages of files that people have, accepted or refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ml import published_names
from tests.ml.test_single_files import flux_files, import_here, parts_of, weights_of  # noqa: F401 - fixtures
from tests.tiny_models import TINY_BASE
from worker.errors import CommandRefused
from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import IMPORTERS
from worker.ml.networks import tiny as upscaler_tiny
from worker.ml.single_files.upscalers import import_upscaler

State = dict[str, torch.Tensor]
Importing = Callable[..., Path]


def saved(path: Path, state: State) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path)
    return path


def renamed(state: State, old: str, new: str) -> State:
    return {re.sub(old, new, name): tensor for name, tensor in state.items()}


@pytest.fixture
def import_flux(tiny_models: Path, flux_files: dict[str, Path], tmp_path: Path) -> Importing:  # noqa: F811
    """Import the tiny FLUX base with one of its files changed, and check that it is the same base."""
    original = tiny_models / TINY_BASE

    def imported(option: str, state: State) -> Path:
        target = tmp_path / "target"
        given = {**flux_files, option: saved(tmp_path / f"{option}.safetensors", state)}
        IMPORTERS["flux"](target, given, original, lambda _: None)
        own, theirs = (
            {name.replace("text_model.", ""): tensor for name, tensor in weights_of(folder).items()}
            for folder in (target, original)
        )
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name].float(), theirs[name]) for name in own)
        return target

    return imported


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "module.", "transformer.", "model."])
def test_a_transformer_below_any_prefix_is_read(
    import_flux: Importing,
    flux_files: dict[str, Path],  # noqa: F811
    prefix: str,
) -> None:
    """diffusers issue 9803, and what compilers and parallel training leave."""
    import_flux("transformer", renamed(load_file(flux_files["transformer"]), "^", prefix))


def test_an_autoencoder_with_the_old_names_of_its_attention_is_read(import_flux: Importing, tiny_models: Path) -> None:
    (file,) = (tiny_models / TINY_BASE / "vae").glob("*.safetensors")
    state = load_file(file)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), (r"to_out\.0", "proj_attn")):
        state = renamed(state, rf"(mid_block\.attentions\.0\.){new}", rf"\1{old}")
    assert any(".proj_attn." in name for name in state)
    import_flux("vae", state | {"loss.logvar": torch.zeros(1)})


def test_a_text_encoder_without_its_prefix_is_read(
    import_flux: Importing,
    flux_files: dict[str, Path],  # noqa: F811
) -> None:
    state = {name: tensor for name, tensor in load_file(flux_files["clip"]).items() if name.startswith("text_model.")}
    import_flux("clip", renamed(state, r"^text_model\.", ""))


def test_weights_of_several_precisions_are_read(import_flux: Importing, flux_files: dict[str, Path]) -> None:  # noqa: F811
    """As merges leave them. Zero is the same number in each."""
    state = load_file(flux_files["transformer"])
    halves = {name: tensor.half() for name, tensor in state.items() if not tensor.any()}
    assert halves
    import_flux("transformer", state | halves)


def test_the_shards_beside_a_shard_are_read(
    tiny_models: Path,
    flux_files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    state = list(load_file(flux_files["t5"]).items())
    first, second = (tmp_path / f"t5-0000{number}-of-00002.safetensors" for number in (1, 2))
    saved(first, dict(state[:3]))
    given = {**flux_files, "t5": first}
    with pytest.raises(
        ModelUnreadable, match=r"is one of 2 shards, and t5-00002-of-00002\.safetensors is not beside it"
    ):
        IMPORTERS["flux"](tmp_path / "target", given, tiny_models / TINY_BASE, lambda _: None)
    saved(second, dict(state[3:]))
    IMPORTERS["flux"](tmp_path / "target", given, tiny_models / TINY_BASE, lambda _: None)
    assert len(load_file(*(tmp_path / "target/text_encoder_2").glob("*.safetensors"))) == len(state) - 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty|empty: fetch it again"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer: run `git lfs pull`"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file, which is quantised"),
        (b"PK\x03\x04", "a pickle"),
        (b"\x80\x02}q", "a pickle"),
        (b'{"metadata": {}}', "a JSON file, such as an index"),
        ((4096).to_bytes(8, "little") + b'{"a":', "incomplete: fetch it again"),
        (b"\x01" * 40, "cannot be read"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_what_is_no_safetensors_file_is_named(
    tiny_models: Path,
    flux_files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    content: bytes,
    what: str,
) -> None:
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    for option in ("transformer", "clip"):
        with pytest.raises(ModelUnreadable, match=rf"^wrong\.safetensors .*({what})"):
            IMPORTERS["flux"](
                tmp_path / "target", {**flux_files, option: path}, tiny_models / TINY_BASE, lambda _: None
            )


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(2, 2)}, "it is a LoRA"),
        ({"conditioner.embedders.0.x": torch.ones(1)}, "it is SDXL"),
        ({"model.diffusion_model.joint_blocks.0.x": torch.ones(1)}, "it is Stable Diffusion 3"),
        ({"double_stream_modulation_img.lin.weight": torch.ones(1)}, r"it is FLUX\.2"),
        ({"model.diffusion_model.cap_embedder.0.weight": torch.ones(1)}, "it is Z-Image"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, r"it is Stable Diffusion 1\.x"),
        ({"control_model.input_blocks.0.0.weight": torch.ones(1)}, "it is a control network"),
        ({"encoder.block.0.layer.0.x": torch.ones(1)}, "it is T5"),
        ({"double_blocks.0.img_mlp.0.weight.absmax": torch.ones(1)}, "is quantised"),
        ({"img_in.weight": torch.ones(1, dtype=torch.uint8)}, r"is quantised \(uint8\)"),
        ({}, "holds no tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_model_is_called_by_its_name(
    tiny_models: Path,
    flux_files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    state: State,
    what: str,
) -> None:
    given = {**flux_files, "transformer": saved(tmp_path / "wrong.safetensors", state)}
    with pytest.raises(ModelUnreadable, match=rf"^wrong\.safetensors .*{what}"):
        IMPORTERS["flux"](tmp_path / "target", given, tiny_models / TINY_BASE, lambda _: None)


@pytest.mark.parametrize("option", ["transformer", "vae", "clip", "t5"])
def test_weights_that_are_not_finite_are_refused_by_name(
    tiny_models: Path,
    flux_files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    option: str,
) -> None:
    state = load_file(flux_files[option])
    name = next(name for name in state if name.endswith("weight") and state[name].ndim >= 2)
    state[name].view(-1)[0] = float("nan")
    given = {**flux_files, option: saved(tmp_path / "nan.safetensors", state)}
    with pytest.raises(ModelUnreadable, match=r"^nan\.safetensors holds numbers that are not finite, in "):
        IMPORTERS["flux"](tmp_path / "target", given, tiny_models / TINY_BASE, lambda _: None)


# -- one checkpoint


@pytest.fixture
def checkpoint(tiny_models: Path) -> State:
    part = parts_of(tiny_models / "tiny-sd15")
    state = published_names.u_net(part["unet"], layers=1, blocks=2)
    state |= published_names.autoencoder(part["vae"], "first_stage_model.")
    return state | {
        f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in part["text_encoder"].items()
    }


def import_checkpoint(tiny_models: Path, folder: Path, state: State) -> State:
    original = tiny_models / "tiny-sd15"
    IMPORTERS["sd15"](
        folder / "target", {"checkpoint": saved(folder / "v1.safetensors", state)}, original, lambda _: None
    )
    return weights_of(folder / "target")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"^cond_stage_model\.transformer\.text_model\.", "cond_stage_model.transformer."),  # NovelAI
        (r"^", "module."),
        (r"^model\.diffusion_model\.", "diffusion_model."),
        (r"^(first_stage_model.*mid\.attn_1\.[qkv])\.", r"\1."),
    ],
)
def test_every_spelling_of_a_checkpoint_gives_the_same_base(
    tiny_models: Path, checkpoint: State, tmp_path: Path, old: str, new: str
) -> None:
    averages = {"model_ema.decay": torch.tensor(0.9), "model_ema.diffusion_modeldown": torch.ones(2)}
    ours = import_checkpoint(tiny_models, tmp_path, renamed(checkpoint, old, new) | ({} if old == "^" else averages))
    theirs = weights_of(tiny_models / "tiny-sd15")
    ours, theirs = ({k.replace("text_model.", ""): v for k, v in state.items()} for state in (ours, theirs))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_that_lacks_a_part_or_is_another_model_is_refused_by_name(
    tiny_models: Path, checkpoint: State, tmp_path: Path
) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    wider = {channels: torch.ones(checkpoint[first].shape[0], channels, 3, 3) for channels in (5, 8, 9)}
    for state, what in (
        ({k: v for k, v in checkpoint.items() if not k.startswith("first_")}, "holds no vae: give one with --vae"),
        ({k: v for k, v in checkpoint.items() if not k.startswith("cond_")}, "holds no text_encoder"),
        (renamed(checkpoint, r"cond_stage_model\.transformer", "cond_stage_model.model"), "it is Stable Diffusion 2"),
        (renamed(checkpoint, r"cond_stage_model", "conditioner.embedders.0"), "it is SDXL"),
        (checkpoint | {first: wider[9]}, "a model for inpainting: its U-Net has 9 input channels"),
        (checkpoint | {first: wider[8]}, "a model for edits by instruction"),
        (checkpoint | {first: wider[5]}, "a model for depth"),
        ({k: v for k, v in checkpoint.items() if not k.startswith("model.")}, "is not a"),
        ({k: v for k, v in checkpoint.items() if "middle_block" not in k}, "is not a|missing"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.ones(1)}, r"it is FLUX\.1"),
        ({"weight": torch.ones(1)}, "is not a unet of this family"),
    ):
        with pytest.raises(ModelUnreadable, match=rf"^v1\.safetensors .*({what})"):
            import_checkpoint(tiny_models, tmp_path, state)


def test_a_damaged_configuration_is_named(
    tiny_models: Path,
    tmp_path: Path,
    checkpoint: State,
    import_here: Importing,  # noqa: F811
) -> None:
    configs = tmp_path / "configs"
    (configs / "unet").mkdir(parents=True)
    for content in ("{", "[]", ""):
        (configs / "unet/config.json").write_text(content)
        options = {"checkpoint": saved(tmp_path / "v1.safetensors", checkpoint), "configs": configs}
        with pytest.raises(CommandRefused, match=r"unet/config\.json is not"):
            import_here("mine", **options, tokenizers=tiny_models / "tiny-sd15")


# -- upscalers


@pytest.mark.parametrize(
    "wrappers",
    [
        ["state_dict"],
        ["model_state_dict"],
        ["params-ema"],
        ["params_ema"],
        ["params"],
        ["model", "state_dict"],
        ["net_g"],
    ],
    ids=".".join,
)
def test_a_wrapped_upscaler_is_read(tmp_path: Path, wrappers: list[str]) -> None:
    upscaler_tiny.build_tiny(tmp_path / "x4.safetensors", 4)
    weights = load_file(tmp_path / "x4.safetensors")
    held: object = {f"module.{name}": tensor for name, tensor in weights.items()}
    for wrapper in reversed(wrappers):
        held = {wrapper: held, "epoch": 3}
    torch.save(held, tmp_path / "x4.pth")
    flat = {f"{'.'.join(wrappers)}.{name}": tensor for name, tensor in weights.items()}
    saved(tmp_path / "flat.safetensors", flat)
    for name in ("x4.pth", "flat.safetensors"):
        target = tmp_path / "x4" / "model.safetensors"
        import_upscaler(tmp_path / name, target, 4)
        written = load_file(target)
        assert written.keys() == weights.keys()
        assert all(torch.equal(written[key], weights[key]) for key in weights)


def test_an_upscaler_that_holds_a_tensor_twice_is_read(tmp_path: Path) -> None:
    """Tied tensors, which safetensors cannot hold."""
    upscaler_tiny.build_tiny(tmp_path / "x4.safetensors", 4)
    weights = load_file(tmp_path / "x4.safetensors")
    weights["conv_up2.weight"] = weights["conv_up1.weight"]
    torch.save({"params_ema": weights}, tmp_path / "x4.pth")
    import_upscaler(tmp_path / "x4.pth", tmp_path / "x4" / "model.safetensors", 4)
    assert load_file(tmp_path / "x4" / "model.safetensors").keys() == weights.keys()


def test_an_upscaler_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    upscaler_tiny.build_tiny(tmp_path / "x4.safetensors", 4)
    weights = load_file(tmp_path / "x4.safetensors")
    nan = weights | {"conv_first.weight": weights["conv_first.weight"] * float("nan")}
    for state, what in (
        (nan, "not finite"),
        ({**weights, "conv_first.weight": torch.ones(2)}, "is not an upscaler"),
        ({"weight": torch.ones(2, 2)}, "is not an upscaler"),
    ):
        for name in ("wrong.pth", "wrong.safetensors"):
            path = tmp_path / name
            torch.save(state, path) if name.endswith("pth") else saved(path, state)
            with pytest.raises(ModelUnreadable, match=rf"wrong\.\w+ .*{what}"):
                import_upscaler(path, tmp_path / "x4" / "model.safetensors", 4)
    (tmp_path / "page.safetensors").write_bytes(b"<html>")
    with pytest.raises(ModelUnreadable, match=r"page\.safetensors .*a web page"):
        import_upscaler(tmp_path / "page.safetensors", tmp_path / "x4" / "model.safetensors", 4)

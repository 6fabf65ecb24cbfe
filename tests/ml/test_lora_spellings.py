"""LoRA files in the spellings of other programs: told by name, converted, and drawn at their whole strength.

The lists of names in `tests/data/lora_formats` were written by those programs, or follow from their readers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ml.families import only_flux, only_sd15
from tests.ml.keys import DATA, listed_keys
from worker.commands import lora as lora_commands
from worker.commands.lora_export import export
from worker.errors import CommandRefused
from worker.ml.adapters import attach
from worker.ml.adapters import files as lora_files
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora as lora_families
from worker.ml.models import Base

ALPHA, RANK = 2.0, 4
State = dict[str, torch.Tensor]

FLUX = {
    "ai_toolkit": "diffusers",
    "bfl_peft_base_model": "PEFT",
    "comfyui_lora_AB": "ComfyUI",
    "comfyui_lora_updown": "ComfyUI",
    "diffusers_model_level": "bare",
    "diffusers_with_alpha": "diffusers",
    "kohya_sd_scripts": "kohya",
    "onetrainer": "OneTrainer",
    "xlabs_uno": "XLabs",
}


def tensors(shapes: dict[str, list[int]], alpha: Callable[[int], float] = lambda _: ALPHA) -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) if shape else torch.tensor(alpha(place))
        for place, (name, shape) in enumerate(shapes.items())
    }


def listed(name: str) -> dict[str, list[int]]:
    return listed_keys(f"lora_formats/{name}.txt")


def saved(folder: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    path = folder / "foreign.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


def modules() -> list[tuple[str, str, str, str, str]]:
    """BFL's name, first and last row in widths, diffusers' name, a note: the table of the published code."""
    rows = [line.split("\t") for line in (DATA / "flux_module_map.tsv").read_text().splitlines() if line[0] != "#"]
    return [(own, first, last, theirs, note) for own, first, last, theirs, note in ([*row, ""][:5] for row in rows)]


def factors(state: State, layer: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The factors of a layer by BFL's name or diffusers', in whichever spelling the file has them."""
    stream = {"img": "1", "txt": "2"}.get(layer.split(".")[-2][:3], "") if "_attn." in layer else ""
    xlabs = {"qkv": "qkv", "proj": "proj", "linear1": "qkv", "linear2": "proj"}.get(layer.split(".")[-1], "-")
    block = ".".join(layer.split(".")[:2])
    flat = layer.replace(".", "_")
    for prefix in (
        *(layer, f"transformer.{layer}", f"diffusion_model.{layer}", f"base_model.model.{layer}"),
        *(f"lora_unet_{flat}", f"lora_transformer_{flat}", f"{block}.processor.{xlabs}_lora{stream}"),
    ):
        for down, up in (("lora_A", "lora_B"), ("lora_down", "lora_up"), ("down", "up")):
            if f"{prefix}.{down}.weight" in state:
                a, b = state[f"{prefix}.{down}.weight"], state[f"{prefix}.{up}.weight"]
                return a, b * (state[f"{prefix}.alpha"] / len(a) if f"{prefix}.alpha" in state else 1)
    return None


def expected_deltas(state: State) -> State:
    """What a file adds to each of diffusers' layers, by the published table."""
    deltas = {}
    for own, first, last, theirs, note in modules():
        for index in "01" if "{i}" in own else "0":
            layer, diffusers = own.format(i=index), theirs.format(i=index)
            found, whole = factors(state, diffusers), factors(state, layer)
            if found is not None:
                deltas[f"transformer.{diffusers}"] = found[1] @ found[0]
            elif whole is not None:
                delta, width = whole[1] @ whole[0], whole[0].shape[1]
                if first:
                    delta = delta[int(first[0]) * width : 7 * width if "m" in last else int(last[0]) * width]
                if note.startswith("ROW HALVES"):
                    delta = torch.cat([*reversed(delta.chunk(2))])
                if len(delta):
                    deltas[f"transformer.{diffusers}"] = delta
    return deltas


def deltas(path: Path) -> State:
    pairs = lora_files.read_pairs(path, lora_files.read_header(path))
    return {layer: b.flatten(1) @ a.flatten(1) for layer, (a, b) in pairs.items()}


def in_every_format(source: Path, folder: Path) -> State:
    """Export to both namings, and return the deltas of diffusers' layers, which are the same in both."""
    naming = lora_files.read_header(source).naming
    diffusers, kohya, back = (folder / f"{name}.safetensors" for name in ("diffusers", "kohya", "back"))
    if naming == "diffusers":
        diffusers = source
        if lora_files.read_header(source).has_alphas:
            export(str(source), "diffusers", folder / "folded.safetensors")
            diffusers = folder / "folded.safetensors"
    else:
        export(str(source), "diffusers", diffusers)
    export(str(diffusers), "kohya", kohya)
    export(str(kohya), "diffusers", back)
    read, again = deltas(diffusers), deltas(back)
    assert read.keys() == again.keys()
    for layer in read:
        torch.testing.assert_close(read[layer], again[layer], rtol=1e-5, atol=1e-5)
    return read


@pytest.mark.parametrize("program", FLUX)
def test_every_spelling_is_named_and_converted(tmp_path: Path, program: str) -> None:
    state = tensors(listed(f"flux_{program}"))
    path = saved(tmp_path, state)
    header, names = lora_families.identify(path)
    assert (names.family, header.naming) == ("flux", FLUX[program])
    expected, read = expected_deltas(state), in_every_format(path, tmp_path)
    assert read.keys() == expected.keys()
    assert 2 * len(state) >= len(read) >= 24
    for layer in read:
        torch.testing.assert_close(read[layer], expected[layer], rtol=1e-5, atol=1e-5)


def test_the_layers_before_and_after_the_blocks_are_converted_too(tmp_path: Path) -> None:
    """The last modulation has its halves in the other order."""
    shapes = listed("flux_kohya_sd_scripts_optional_modules")
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("lora_te")}
    for side, shape in (("down", [4, 48]), ("up", [96, 4])):
        shapes[f"lora_unet_final_layer_adaLN_modulation_1.lora_{side}.weight"] = shape
        shapes[f"lora_unet_final_layer_linear.lora_{side}.weight"] = [4, 48] if side == "down" else [64, 4]
    state = tensors(shapes)
    path = saved(tmp_path, state)
    expected, read = expected_deltas(state), in_every_format(path, tmp_path)
    assert read.keys() == expected.keys() >= {"transformer.norm_out.linear", "transformer.proj_out"}
    for layer in read:
        torch.testing.assert_close(read[layer], expected[layer], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [r"double_blocks_", r"double_blocks_1_", r"single_blocks_", r"txt_mlp_2"])
def test_some_of_the_blocks_tell_the_family(tmp_path: Path, kept: str) -> None:
    """As a training of double blocks alone leaves, our own export's output among them (sd-scripts issue 1537)."""
    shapes = listed("flux_kohya_sd_scripts") | listed("flux_kohya_sd_scripts_optional_modules")
    state = tensors({name: shape for name, shape in shapes.items() if re.search(f"lora_unet_.*{kept}|_{kept}", name)})
    path = saved(tmp_path, state)
    assert lora_families.identify(path)[1].family == "flux"
    read = in_every_format(path, tmp_path)
    assert read.keys() == expected_deltas(state).keys()


def test_more_blocks_than_the_family_has_are_another_family(tmp_path: Path) -> None:
    for block, family in (
        ("transformer_blocks.18", "flux"),
        ("transformer_blocks.19", "qwen-image"),
        ("transformer_blocks.60", None),
    ):
        layer = f"transformer.{block}.attn.to_q"
        path = saved(tmp_path, tensors({f"{layer}.lora_A.weight": [4, 48], f"{layer}.lora_B.weight": [48, 4]}))
        if family:
            assert lora_families.identify(path)[1].family == family
        else:
            with pytest.raises(ModelUnreadable, match="unknown family"):
                lora_families.identify(path)


# -- FLUX.2 klein


KLEIN = {
    "ai_toolkit": "ComfyUI",
    "bfl_peft_base_model": "PEFT",
    "diffusers_script": "diffusers",
    "musubi_tuner": "kohya",
    "onetrainer_comfy": "ComfyUI",
    "onetrainer_diffusers": "diffusers",
    "onetrainer_legacy": "older diffusers",
}
NARROWER = 48
"""Lists at real size are read at this part of the width."""


def listed_klein(program: str) -> dict[str, list[int]]:
    shapes = listed(f"klein4b_{program}")
    return {name: [size if size == 16 else size // NARROWER for size in shape] for name, shape in shapes.items()}


def deltas_by_table(table: str, state: State, narrower: int) -> State:
    """What a file adds to each of diffusers' layers, by a table that diffusers' converter of weights agrees with."""
    rows = [line.split("\t") for line in (DATA / "lora_formats" / table).read_text().splitlines()]
    deltas = {}
    for own, part, theirs, *note in (row for row in rows if row[0][0] != "#"):
        layer, diffusers = own.removesuffix(".weight"), theirs.removesuffix(".weight")
        found, whole = factors(state, diffusers), factors(state, layer)
        if found is not None:
            deltas[f"transformer.{diffusers}"] = found[1] @ found[0]
        elif whole is not None:
            first, last = (None, None) if part == "-" else (int(row) // narrower for row in part.split(":"))
            delta = (whole[1] @ whole[0])[first:last]
            if note == ["swap_halves"]:
                delta = torch.cat([*reversed(delta.chunk(2))])
            deltas[f"transformer.{diffusers}"] = delta
    return deltas


def klein_deltas(state: State) -> State:
    return deltas_by_table("klein4b_name_map.tsv", state, NARROWER)


def assert_is_read(folder: Path, state: State, family: str, expected: State) -> None:
    """The file is of this family, and does this to diffusers' layers, also once it is converted and read again."""
    path = saved(folder, state)
    header, names = lora_families.identify(path)
    assert names.family == family
    pairs = names.to_diffusers(lora_files.read_pairs(path, header))
    for written in (pairs, *(names.to_diffusers(convert(pairs)) for convert in (names.to_comfyui, names.to_kohya))):
        assert written.keys() == expected.keys()
        for layer, (a, b) in written.items():
            torch.testing.assert_close(b @ a, expected[layer], rtol=1e-4, atol=1e-4)


def assert_is_read_as_klein(folder: Path, state: State) -> None:
    assert_is_read(folder, state, "klein", klein_deltas(state))


@pytest.mark.parametrize("program", KLEIN)
def test_every_spelling_of_klein_is_named_and_converted(tmp_path: Path, program: str) -> None:
    state = tensors(listed_klein(program))
    assert lora_files.read_header(saved(tmp_path, state)).naming == KLEIN[program]
    assert len(klein_deltas(state)) in (60, 100)
    assert_is_read_as_klein(tmp_path, state)


@pytest.mark.parametrize(
    ("program", "old", "new"),
    [
        ("ai_toolkit", r"^diffusion_model\.", ""),
        ("onetrainer_comfy", r"^diffusion_model\.", ""),
        ("ai_toolkit", r"\.lora_([AB])\.", {"A": ".lora_down.", "B": ".lora_up."}),
        ("onetrainer_diffusers", r"^transformer\.", ""),
        ("onetrainer_diffusers", r"^transformer\.", "diffusion_model."),
    ],
)
def test_klein_is_read_in_spellings_that_diffusers_ignores_or_refuses(
    tmp_path: Path, program: str, old: str, new: str | dict[str, str]
) -> None:
    """Bare names, `diffusion_model.` with `lora_down` or with diffusers' names; alpha beside original names."""
    other = new if isinstance(new, str) else lambda found: new[found[1]]
    state = tensors({re.sub(old, other, name): shape for name, shape in listed_klein(program).items()})
    assert_is_read_as_klein(tmp_path, state)


def test_the_halves_of_kleins_last_modulation_are_swapped(tmp_path: Path) -> None:
    """diffusers' reader leaves them, which exchanges scale and shift."""
    ends = {"final_layer.adaLN_modulation.1": (64, 128), "final_layer.linear": (64, 32), "txt_in": (160, 64)}
    shapes = {}
    for layer, (inputs, outputs) in ends.items():
        for side, shape in (("A", [4, inputs]), ("B", [outputs, 4])):
            shapes[f"diffusion_model.{layer}.lora_{side}.weight"] = shape
    state = tensors(listed_klein("ai_toolkit") | shapes)
    assert "transformer.norm_out.linear" in klein_deltas(state)
    assert_is_read_as_klein(tmp_path, state)


def test_layers_that_two_families_have_alike_need_metadata(tmp_path: Path) -> None:
    """A training of the first blocks' attention alone: nothing in it tells FLUX.1 from FLUX.2."""
    shapes = {name: shape for name, shape in listed_klein("ai_toolkit").items() if "img_attn" in name}
    state = tensors(shapes)
    for metadata in ({}, {"ss_base_model_version": "sdxl_1.0"}):
        with pytest.raises(ModelUnreadable, match="may be a LoRA for flux or klein: its layers exist in each"):
            lora_families.identify(saved(tmp_path, state, metadata))
    for key, words, family in (
        ("ss_base_model_version", "flux2_klein_4b", "klein"),
        ("modelspec.architecture", "Flux.2-klein-4b/lora", "klein"),
        ("modelspec.architecture", "Flux.2/lora", "klein"),
        ("ss_base_model_version", "flux1", "flux"),
        ("family", "klein", "klein"),
    ):
        assert lora_families.identify(saved(tmp_path, state, {key: words}))[1].family == family


@pytest.mark.parametrize("block", ["single_blocks.20.linear1", "double_blocks.5.txt_mlp.0"])
def test_a_lora_of_a_larger_flux_2_is_called_so(tmp_path: Path, block: str) -> None:
    outputs = {"linear1": 9, "0": 6}[block.rpartition(".")[2]]
    state = tensors({f"{block}.lora_A.weight": [4, 64], f"{block}.lora_B.weight": [64 * outputs, 4]})
    with pytest.raises(ModelUnreadable, match=r"unknown family: .*, as in FLUX\.2 of another size"):
        lora_families.identify(saved(tmp_path, state))


def test_comfyuis_names_are_written_only_for_families_whose_own_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(CommandRefused, match="is a LoRA for flux, of which ComfyUI reads diffusers names"):
        export(str(saved(tmp_path, tensors(listed("flux_ai_toolkit")))), "ComfyUI", out)
    path = saved(tmp_path, tensors(listed_klein("onetrainer_comfy")))
    export(str(path), "ComfyUI", out)  # it has these names already, but alpha beside them
    assert not lora_files.read_header(out).has_alphas
    with pytest.raises(CommandRefused, match="already has ComfyUI names"):
        export(str(out), "ComfyUI", tmp_path / "again.safetensors")


def norm_of_product(up: torch.Tensor, down: torch.Tensor) -> float:
    """The norm of what a layer adds, from its factors: at real size the product takes seconds."""
    up, down = up.flatten(1).double(), down.flatten(1).double()
    return float(((up.T @ up) * (down @ down.T)).sum().sqrt())


@pytest.mark.parametrize("program", ["comfyui", "diffusers_example_scripts", "diffusers_legacy_attn_processor"])
def test_every_spelling_of_a_u_net_is_converted(tmp_path: Path, program: str) -> None:
    """Some of these lists have the text encoder beside the U-Net."""
    shapes = listed(f"sd15_{program}")
    unet = {name: shape for name, shape in shapes.items() if not name.startswith("text_encoder")}
    assert len(unet) < len(shapes)
    with pytest.raises(ModelUnreadable, match="is a LoRA of the text encoder too"):
        lora_families.identify(saved(tmp_path, tensors(shapes)))
    state = tensors(unet)
    path, out = saved(tmp_path, state), tmp_path / "kohya.safetensors"
    export(str(path), "kohya", out)
    own, theirs = load_file(out), listed_keys("sd15_kohya_unet_keys.txt")
    assert {name: list(tensor.shape) for name, tensor in own.items()}.items() <= theirs.items()
    scale = ALPHA / RANK if any(name.endswith("alpha") for name in state) else 1
    pairs = lora_files.read_pairs(out, lora_files.read_header(out)).values()
    norms = sorted(norm_of_product(b, a) for a, b in pairs)
    ups = {name: key for name in state if (key := re.sub(r"lora([._])(up|B)", r"lora\1down", name)) != name}
    expected = sorted(norm_of_product(state[up], state[down]) * scale for up, down in ups.items())
    assert norms == pytest.approx(expected, rel=1e-4)


SDXL = {
    "ai_toolkit": "kohya",
    "diffusers_script_unet": "older diffusers",
    "kohya_sd_scripts_unet": "kohya",
    "onetrainer_comfy": "ComfyUI",
    "onetrainer_diffusers": "diffusers",
}


@pytest.mark.parametrize("program", SDXL)
def test_every_spelling_of_sdxl_is_named_and_converted(tmp_path: Path, program: str) -> None:
    """Some programs have diffusers' names of the blocks, kohya's files those of the original: its table tells."""
    state = tensors(listed(f"sdxl_{program}"))
    converted = lora_families.convert(saved(tmp_path, state), "kohya")
    header, read = converted.header, converted.layers
    assert (converted.names.family, header.naming) == ("sdxl", SDXL[program])
    theirs = listed_keys("sdxl_kohya_unet_keys.txt")
    assert lora_files.state_of(read, "kohya").keys() <= theirs.keys()
    rows = [line.split("\t") for line in (DATA / "sdxl_unet_name_map.tsv").read_text().splitlines() if line[0] != "#"]
    original = {spelling: own for own, diffusers in rows for spelling in (diffusers, diffusers.replace(".", "_"))}
    assert len(read) == len(header.keys) == 24
    for layer, keys in header.keys.items():
        module = re.sub("^(unet\\.|diffusion_model\\.|lora_unet_)", "", layer)
        a, b = read[f"lora_unet_{original.get(module, module).replace('.', '_')}"]
        scale = float(state[keys["alpha"]]) / len(a) if "alpha" in keys else 1
        torch.testing.assert_close(b @ a, state[keys["up"]] @ state[keys["down"]] * scale, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("flux_bfl_control_lora", "is a LoRA with biases, such as a control LoRA"),
        ("flux_kohya_sd_scripts_optional_modules", "text encoder too"),
        ("sd15_kohya_sd_scripts_conv_extra", "is a LoCon"),
        ("sdxl_kohya_sd_scripts_te", "text encoder alone"),
    ],
)
def test_what_is_not_read_is_named_for_what_it_is(tmp_path: Path, name: str, what: str) -> None:
    state = {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in listed(name).items()}
    with pytest.raises(CommandRefused, match=what):
        export(str(saved(tmp_path, state)), "kohya", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.hada_t1", "a LoCon with a core"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_mid.weight", "a LoCon with a core"),
        ("lora_unet_double_blocks_0_img_attn_qkv.oft_blocks", "an OFT"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.diff", "whole differences"),
        ("emb_params", "a textual inversion embedding"),
        (
            "bundle_emb.ohwx.string_to_param.*",
            r"a LoRA with textual inversion embeddings, .* \('bundle_emb\.ohwx\.string_to_param\.\*'\)",
        ),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole model"),
    ],
)
def test_other_files_that_people_call_loras_are_named(tmp_path: Path, key: str, what: str) -> None:
    with pytest.raises(ModelUnreadable, match=what):
        lora_families.identify(saved(tmp_path, {key: torch.ones(4, 4)}))


def test_what_the_metadata_states_counts_against_a_family(tmp_path: Path) -> None:
    """The attention layers of two families may have the same names and shapes."""
    state = tensors(listed("flux_ai_toolkit"))
    for stated in ("flux2_klein_4b", "chroma"):
        path = saved(tmp_path, state, {"ss_base_model_version": stated})
        with pytest.raises(ModelUnreadable, match=f"unknown family: its metadata says '{stated}'"):
            lora_families.identify(path)
    for stated in ("flux1", "flux.1_kontext"):
        assert lora_families.identify(saved(tmp_path, state, {"ss_base_model_version": stated}))[1].family == "flux"


def test_two_loras_in_one_file_are_refused(tmp_path: Path) -> None:
    state = tensors(listed("flux_ai_toolkit"))
    twice = {name.replace(".weight", ".other.weight"): tensor.clone() for name, tensor in state.items()}
    with pytest.raises(ModelUnreadable, match="holds several LoRAs"):
        lora_families.identify(saved(tmp_path, state | twice))
    bare = {name.removeprefix("transformer."): tensor.clone() for name, tensor in state.items()}
    with pytest.raises(CommandRefused, match="in two namings"):
        export(str(saved(tmp_path, state | bare)), "kohya", tmp_path / "out.safetensors")


# -- alpha


@pytest.mark.parametrize("rank", [303, 257])
def test_alpha_is_the_rank_exactly_whatever_the_weights_precision(tmp_path: Path, rank: int) -> None:
    """bfloat16 would make 304 of 303."""
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "lora.safetensors"
    state = {
        f"{layer}.lora_down.weight": torch.ones(rank, 64, dtype=torch.bfloat16),
        f"{layer}.lora_up.weight": torch.ones(64, rank, dtype=torch.bfloat16),
    }
    lora_files.write(path, state, {})
    alpha = load_file(path)[f"{layer}.alpha"]
    assert (alpha.dtype, alpha.item()) == (torch.float32, rank)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64], ids=str)
def test_an_alpha_that_was_written_as_a_whole_number_counts(tmp_path: Path, dtype: torch.dtype) -> None:
    """sd-scripts writes the rank itself, an int64, if no alpha was given."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    weights = {f"{layer}.lora_down.weight": torch.ones(4, 320), f"{layer}.lora_up.weight": torch.ones(320, 4)}
    save_file({**weights, f"{layer}.alpha": torch.tensor(2, dtype=dtype)}, tmp_path / "a.safetensors")
    ((a, b),) = lora_families.load(tmp_path / "a.safetensors", "sd15").values()
    torch.testing.assert_close(b @ a, torch.full((320, 320), 2.0))


@pytest.mark.parametrize("stated", ['{"lora_alpha": 1' + "0" * 400 + "}", "[" * 100_000, '{"lora_alpha": NaN}'])
def test_metadata_that_states_no_number_is_refused(tmp_path: Path, stated: str) -> None:
    layer = "transformer.single_transformer_blocks.0.attn.to_q"
    weights = {f"{layer}.lora_A.weight": torch.ones(4, 64), f"{layer}.lora_B.weight": torch.ones(64, 4)}
    save_file(weights, tmp_path / "a.safetensors", {"lora_adapter_metadata": stated})
    with pytest.raises(ModelUnreadable, match="lora_adapter_metadata"):
        lora_families.load(tmp_path / "a.safetensors", "flux")


@pytest.mark.parametrize("size", [0x3C20, 0x3C00 + 0x0A, 640])
def test_a_cut_off_file_is_not_called_what_the_length_of_its_header_looks_like(tmp_path: Path, size: int) -> None:
    """`<` begins a web page, and 80 02 a pickle."""
    (tmp_path / "a.safetensors").write_bytes(size.to_bytes(8, "little") + b'{"a":')
    with pytest.raises(ModelUnreadable, match="incomplete: fetch it again"):
        lora_families.identify(tmp_path / "a.safetensors")


def test_a_small_scale_stays_in_the_range_of_float16(tmp_path: Path) -> None:
    """On one factor alone, alpha 1 at rank 128 leaves it three digits at most."""
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    a, b = torch.full((128, 8), 1e-2, dtype=torch.float16), torch.full((8, 128), 1e-3, dtype=torch.float16)
    path = saved(
        tmp_path,
        {f"{layer}.lora_down.weight": a, f"{layer}.lora_up.weight": b, f"{layer}.alpha": torch.tensor(1.0)},
    )
    ((down, up),) = lora_files.read_pairs(path, lora_files.read_header(path)).values()
    torch.testing.assert_close(up.double() @ down.double(), b.double() @ a.double() / 128, rtol=1e-3, atol=0)


def test_a_scale_beyond_the_precision_is_refused(tmp_path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    ones = torch.ones(4, 4, dtype=torch.float16)
    state = {f"{layer}.lora_down.weight": ones, f"{layer}.lora_up.weight": ones.clone()}
    path = saved(tmp_path, {**state, f"{layer}.alpha": torch.tensor(1e12)})
    with pytest.raises(ModelUnreadable, match="beyond what its precision can hold"):
        lora_files.read_pairs(path, lora_files.read_header(path))


@only_sd15
def test_each_layer_is_drawn_at_its_own_strength(base: Base, tmp_path: Path) -> None:
    """Ranks and alphas that differ by layer: diffusers' own reader takes the first for some of them."""
    state: State = {}
    layers = dict(base.denoiser.named_modules())
    wanted = [name for name in layers if name.endswith(("to_q", "to_k", "to_v", "to_out.0", "proj_in"))]
    assert len(wanted) >= 12
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for place, name in enumerate(wanted):
        rank, alpha = (4, 8, 3)[place % 3], (1.0, 8.0, 16.0, 2.0)[place % 4]
        weight, kernel = layers[name].weight, layers[name].weight.shape[2:]
        a = torch.randn(rank, weight.shape[1], *kernel, generator=generator)
        b = torch.randn(weight.shape[0], rank, *kernel, generator=generator)
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b, f"{key}.alpha": torch.tensor(alpha)}
        expected[name] = (b.flatten(1) @ a.flatten(1)) * alpha / rank
    pairs = lora_families.load_fitting(saved(tmp_path, state), "sd15", base.denoiser)
    assert_drawn(base, pairs, expected)


@only_flux
def test_layers_whose_name_ends_anothers_are_drawn_apart(base: Base, tmp_path: Path) -> None:
    """`proj_out` is the model's last layer and one of each single block."""
    shapes = {"proj_out": (3, [64, 128]), "single_transformer_blocks.0.proj_out": (5, [128, 640])}
    state, expected = {}, {}
    for name, (rank, (outputs, inputs)) in shapes.items():
        a, b = torch.randn(rank, inputs), torch.randn(outputs, rank)
        state |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
        expected[name] = b @ a
    pairs = lora_families.load_fitting(saved(tmp_path, state), "flux", base.denoiser)
    assert_drawn(base, pairs, expected)


def assert_drawn(base: Base, pairs: dict[str, lora_families.Pair], expected: State) -> None:
    """Attached at scale 1, the file changes exactly these layers by exactly this much."""
    with attach.attached(base.denoiser, [(pairs, 1.0)]):
        changed = {
            name: layer.get_delta_weight("lora_0").flatten(1)
            for name, layer in base.denoiser.named_modules()
            if hasattr(layer, "get_delta_weight") and layer.lora_B["lora_0"].weight.any()
        }
        assert changed.keys() == expected.keys()
        for name, delta in changed.items():
            torch.testing.assert_close(delta, expected[name], rtol=1e-4, atol=1e-4)


def test_alpha_in_the_metadata_of_a_model_without_a_pipeline_is_followed(tmp_path: Path) -> None:
    state = tensors(listed("flux_diffusers_model_level"))
    half = saved(tmp_path, state, {"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": RANK / 2})})
    halved = deltas(half)
    whole = deltas(saved(tmp_path, state))
    assert all(torch.allclose(halved[layer], whole[layer] / 2) for layer in whole)


def saved_by_peft(folder: Path, **config: object) -> Path:
    """Save a LoRA as PEFT does: alpha is in `adapter_config.json` alone."""
    path = saved(folder, tensors(listed("flux_bfl_peft_base_model")))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, **config}))
    return path


LINEAR1 = "base_model.model.single_blocks.0.linear1"


@pytest.mark.parametrize(
    ("config", "scale", "of_linear1"),
    [
        ({"lora_alpha": 16}, 4, 4),
        ({"lora_alpha": 16, "use_rslora": True}, 8, 8),
        ({"lora_alpha": 16, "alpha_pattern": {"single_blocks.0.linear1": 2}}, 4, 0.5),
        ({"lora_alpha": 16, "r": 8, "rank_pattern": {".*": RANK}}, 4, 4),
    ],
)
def test_alpha_in_the_configuration_beside_a_file_of_peft_is_followed(
    tmp_path: Path, config: dict[str, object], scale: float, of_linear1: float
) -> None:
    whole = deltas(saved(tmp_path, tensors(listed("flux_bfl_peft_base_model"))))
    scaled = deltas(saved_by_peft(tmp_path, **config))
    assert LINEAR1 in whole
    for layer, delta in whole.items():
        torch.testing.assert_close(scaled[layer], delta * (of_linear1 if layer == LINEAR1 else scale))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "states no alpha for .* in the adapter_config.json beside it"),
        (
            {"lora_alpha": 16, "r": 8},
            "has layers of rank 4, and the adapter_config.json beside it is of a LoRA of rank 8",
        ),
        (
            {"lora_alpha": 16, "use_dora": True},
            "is a DoRA without its magnitudes: use_dora is set in the adapter_config",
        ),
        ({"lora_alpha": 16, "peft_type": "LOHA"}, "is not a plain LoRA: .* has peft_type 'LOHA'"),
        ({"lora_alpha": 16, "alpha_pattern": {"^linear.*": 2}}, "has an alpha_pattern in the adapter_config.json"),
    ],
)
def test_a_configuration_beside_a_file_that_cannot_be_followed_is_refused_by_name(
    tmp_path: Path, config: dict[str, object], why: str
) -> None:
    path = saved_by_peft(tmp_path, **config)
    with pytest.raises(CommandRefused, match=rf"foreign\.safetensors {why}"):
        export(str(path), "kohya", tmp_path / "out.safetensors")


def test_a_scale_that_was_assumed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved_by_peft(tmp_path, lora_alpha=16)
    lora_commands.export(str(path), "kohya", tmp_path / "stated.safetensors")
    assert not capsys.readouterr().err
    (tmp_path / "adapter_config.json").unlink()
    lora_commands.export(str(path), "kohya", tmp_path / "assumed.safetensors")
    assert "no adapter_config.json beside it: scale 1 was assumed" in capsys.readouterr().err

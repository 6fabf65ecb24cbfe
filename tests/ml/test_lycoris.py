"""LoKr and LoHa files: the pairs that they become change a layer by what LyCORIS adds to it, and others are refused.

The formulas are those of LyCORIS' modules and ComfyUI's weight adapters, written out in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.ml.families import only_klein
from tests.ml.test_lora_spellings import State, assert_drawn, saved
from worker.commands.lora_export import export
from worker.errors import CommandRefused
from worker.ml.adapters import files as lora_files
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora as lora_families
from worker.ml.models import Base

ALPHA = 3.0
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
SPELLINGS = {
    "AI Toolkit": ("diffusion_model.layers.0.attention.to_q", "z-image"),
    "AI Toolkit, fused": ("diffusion_model.double_blocks.0.img_attn.qkv", "klein"),
    "AI Toolkit before 2026, SimpleTuner": ("lycoris_single_transformer_blocks_1_attn_to_v", "flux"),
    "diffusers": ("transformer.single_transformer_blocks.1.attn.to_v", "flux"),
    "LyCORIS in sd-scripts": (KOHYA, "sd15"),
}


def matrix(name: str, rows: int, columns: int, rank: int | None) -> State:
    """A matrix of a LoKr, whole or as a product."""
    if rank is None:
        return {name: torch.randn(rows, columns)}
    return {f"{name}_a": torch.randn(rows, rank), f"{name}_b": torch.randn(rank, columns)}


def lokr(outputs: int, first: int | None, second: int | None) -> State:
    """A LoKr of a layer from 24 features, in factors of 4 and 6, with these ranks of its two matrices."""
    return matrix("lokr_w1", 4, 4, first) | matrix("lokr_w2", outputs // 4, 6, second)


def loha(outputs: int, rank: int) -> State:
    return matrix("hada_w1", outputs, 24, rank) | matrix("hada_w2", outputs, 24, rank)


FORMS: dict[str, tuple[Callable[[int], State], float, int]] = {
    # a layer's tensors by its outputs, its scale, and the rank of its pair
    "w1 whole": (lambda outputs: lokr(outputs, None, 2), ALPHA / 2, 8),
    "w2 whole": (lambda outputs: lokr(outputs, 1, None), ALPHA / 1, 6),
    "neither whole": (lambda outputs: lokr(outputs, 3, 3), ALPHA / 3, 9),
    "both whole": (lambda outputs: lokr(outputs, None, None), 1, 24),
    "LoHa": (lambda outputs: loha(outputs, 3), ALPHA / 3, 9),
}


def whole(layer: State, name: str) -> torch.Tensor:
    if name in layer:
        return layer[name].double()
    return layer[f"{name}_a"].double() @ layer[f"{name}_b"].double()


def delta(layer: State, scale: float) -> torch.Tensor:
    """What LyCORIS adds to a layer's weights (out, in)."""
    if "hada_w1_a" in layer:
        return whole(layer, "hada_w1") * whole(layer, "hada_w2") * scale
    first, second = whole(layer, "lokr_w1").flatten(1), whole(layer, "lokr_w2").flatten(1)
    blocks = [[float(value) * second for value in row] for row in first]
    return torch.cat([torch.cat(row, dim=1) for row in blocks]) * scale


def file_of(
    folder: Path, layers: dict[str, State], alpha: float | None = ALPHA, metadata: dict[str, str] | None = None
) -> Path:
    state = {f"{name}.{side}": tensor for name, layer in layers.items() for side, tensor in layer.items()}
    if alpha is not None:
        state |= {f"{name}.alpha": torch.tensor(alpha) for name in layers}
    return saved(folder, state, metadata)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("program", SPELLINGS)
def test_every_form_in_every_spelling_becomes_a_lora_with_the_same_change(
    tmp_path: Path, program: str, form: str
) -> None:
    name, family = SPELLINGS[program]
    make, scale, rank = FORMS[form]
    layer = make(72 if name.endswith("qkv") else 24)
    path, out = file_of(tmp_path, {name: layer}, metadata={"family": family}), tmp_path / "out.safetensors"
    header, names = lora_families.identify(path)
    assert (header.naming, header.rank, names.family) == (form if form == "LoHa" else "LoKr", rank, family)
    ((a, b),) = lora_files.read_pairs(path, header).values()
    assert (a.dtype, len(a)) == (torch.float32, rank)
    torch.testing.assert_close(b.double() @ a.double(), delta(layer, scale), rtol=1e-5, atol=1e-5)
    export(str(path), "kohya", out)  # as a plain LoRA, which other programs read
    ((a, b),) = lora_families.convert(out, "kohya" if family == "klein" else "diffusers").layers.values()
    torch.testing.assert_close(b.double() @ a.double(), delta(layer, scale), rtol=1e-5, atol=1e-5)


@only_klein
def test_the_change_is_drawn_with_whole(base: Base, tmp_path: Path) -> None:
    """Fused query, key and value, whose thirds are no Kronecker products; a plain LoRA beside a LoKr and a LoHa."""
    name, parts = "transformer_blocks.0.attn", ("to_q", "to_k", "to_v")
    width = base.denoiser.get_submodule(f"{name}.to_q").weight.shape[1]
    fused = matrix("lokr_w1", 4, 4, None) | matrix("lokr_w2", 3 * width // 4, width // 4, 2)
    hada = matrix("hada_w1", width, width, 2) | matrix("hada_w2", width, width, 2)
    plain = {"lora_A.weight": torch.randn(2, width), "lora_B.weight": torch.randn(width, 2)}
    block = "diffusion_model.double_blocks.0"
    layers = {f"{block}.img_attn.qkv": fused, f"{block}.img_attn.proj": hada, f"{block}.txt_attn.proj": plain}
    own, klein = tmp_path / "own.safetensors", {"family": "klein"}
    converted = lora_families.convert_to_own(file_of(tmp_path, layers, metadata=klein))
    lora_files.write(own, lora_files.state_of(converted.layers, converted.names.naming), klein)
    expected = dict(zip([f"{name}.{part}" for part in parts], delta(fused, ALPHA / 2).chunk(3), strict=True))
    expected[f"{name}.to_out.0"] = delta(hada, ALPHA / 2)
    expected[f"{name}.to_add_out"] = plain["lora_B.weight"].double() @ plain["lora_A.weight"].double() * ALPHA / 2
    pairs = lora_families.load_fitting(own, "klein", base.denoiser)
    assert_drawn(base, pairs, {layer: change.float() for layer, change in expected.items()})


def test_a_layer_that_is_a_convolution_of_one_pixel_keeps_its_kernel(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    layer = matrix("lokr_w1", 4, 4, None) | {"lokr_w2": torch.randn(6, 6, 1, 1)}
    path = file_of(tmp_path, {name: layer})
    header, names = lora_families.identify(path)
    ((a, b),) = lora_files.read_pairs(path, header).values()
    assert (names.family, a.shape, b.shape) == ("sd15", (24, 24, 1, 1), (24, 24, 1, 1))
    torch.testing.assert_close(b.flatten(1).double() @ a.flatten(1).double(), delta(layer, 1), rtol=1e-5, atol=1e-5)


def test_an_alpha_that_nobody_reads_may_be_infinite(tmp_path: Path) -> None:
    """AI Toolkit writes 9999999999 beside two whole matrices, in float16."""
    layer, name = lokr(24, None, None), SPELLINGS["AI Toolkit"][0]
    state = {f"{name}.{side}": tensor.half() for side, tensor in layer.items()}
    path = saved(tmp_path, {**state, f"{name}.alpha": torch.tensor(9999999999).half()})
    ((a, b),) = lora_files.read_pairs(path, lora_files.read_header(path)).values()
    assert a.dtype == b.dtype == torch.float16
    halved = {side: tensor.half() for side, tensor in layer.items()}
    torch.testing.assert_close(b.double() @ a.double(), delta(halved, 1), rtol=1e-3, atol=1e-6)


def test_a_file_without_alpha_is_read_at_scale_one(tmp_path: Path) -> None:
    layer = lokr(24, None, 2)
    path = file_of(tmp_path, {SPELLINGS["AI Toolkit"][0]: layer}, alpha=None)
    ((a, b),) = lora_files.read_pairs(path, lora_files.read_header(path)).values()
    torch.testing.assert_close(b.double() @ a.double(), delta(layer, 1), rtol=1e-5, atol=1e-5)


def test_it_is_converted_before_pictures_are_drawn_with_it(tmp_path: Path) -> None:
    path = file_of(tmp_path, {SPELLINGS["AI Toolkit"][0]: lokr(24, None, 2)})
    with pytest.raises(ModelUnreadable, match="has LoKr names, but ComfyUI names are needed: convert it with"):
        lora_families.load(path, "z-image")


# -- what is refused

W1, W2 = {"lokr_w1": torch.ones(4, 4)}, {"lokr_w2_a": torch.ones(6, 2), "lokr_w2_b": torch.ones(2, 6)}
HADA = {f"hada_{name}": torch.ones(24, 2) if name[-1] == "a" else torch.ones(2, 24) for name in ("w1_a", "w1_b")}


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (W1, "incomplete: .*to_q, a LoKr, lacks lokr_w2_a"),
        (W2, "incomplete: .*to_q, a LoKr, lacks lokr_w1_a"),
        ({**W1, "lokr_w2_a": torch.ones(6, 2)}, "incomplete: .* lacks lokr_w2_b"),
        (HADA, "incomplete: .*to_q, a LoHa, lacks hada_w2_a"),
        (
            {**W1, "lokr_w2_a": torch.ones(6, 2), "lokr_w2_b": torch.ones(3, 6)},
            r"has lokr_w2_a \[6, 2\] and lokr_w2_b \[3, 6\], which do not match",
        ),
        ({**W1, **W2, "lokr_w2": torch.ones(6, 6)}, "has lokr_w2 both whole and as a product"),
        ({**W1, "lokr_w2": torch.ones(6)}, r"has no matrix in lokr_w2 \[6\]"),
        ({**W2, "lokr_w1": torch.ones(4, 4, 1, 1)}, r"has a kernel in lokr_w1 \[4, 4, 1, 1\]"),
        ({**W2, **matrix("lokr_w1", 4, 4, 1)}, "has factors of rank 1 and 2"),
        ({**matrix("hada_w1", 24, 24, 2), **matrix("hada_w2", 24, 24, 3)}, "has factors of .*24, 24, 2.*24, 24, 3"),
        ({**W1, **W2, "lora_A.weight": torch.ones(2, 24)}, "holds several LoRAs: .* has down, lokr_w1, "),
        ({**W1, **W2, "dora_scale": torch.ones(24, 1)}, "is a DoRA, which scales the base's own weights"),
        ({**W1, **W2, "alpha": torch.ones(2)}, "incomplete: the alpha of .*to_q is not one number"),
        ({**W1, **W2, "lokr_t2": torch.ones(2, 2, 3, 3)}, "is a LoCon with a core"),
        ({**W1, "lokr_w2": torch.ones(6, 6, 3, 3)}, r"is a LoCon \(.* convolution of 3 x 3 pixels\)"),
        ({**W1, "lokr_w2": torch.ones(6, 7)}, "unknown family: its layer .* maps 28 to 24 features"),
        ({**W1, "lokr_w2": torch.full((6, 6), torch.nan)}, "not finite, in .*lokr_w2: its training diverged"),
        ({**W1, **W2, "alpha": torch.tensor(torch.inf)}, "not finite, in .*alpha"),
        ({**W1, "lokr_w2": torch.ones(6, 6, dtype=torch.int8)}, "holds I8 numbers in .*lokr_w2"),
        (
            matrix("lokr_w1", 24, 24, None) | matrix("lokr_w2", 24, 24, None),
            r"is a LoKr of rank 576 \(.*to_q\), which no LoRA of a rank up to 512 equals: train it with a smaller",
        ),
        (
            matrix("hada_w1", 48, 48, 23) | matrix("hada_w2", 48, 48, 23),
            r"is a LoHa of rank 529 \(.*to_q\), which no LoRA of a rank up to 512 equals",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_no_lora_is_refused_by_name(tmp_path: Path, layer: State, why: str) -> None:
    path, out = tmp_path / "foreign.safetensors", tmp_path / "out.safetensors"
    save_file({f"{SPELLINGS['AI Toolkit'][0]}.{side}": tensor.clone() for side, tensor in layer.items()}, path)
    with pytest.raises(CommandRefused, match=rf"^foreign\.safetensors .*{why}"):
        export(str(path), "kohya", out)
    assert not out.exists()


def test_pefts_own_whose_alpha_is_elsewhere_is_refused(tmp_path: Path) -> None:
    name = "base_model.model.single_transformer_blocks.1.attn.to_v"
    path = file_of(tmp_path, {name: lokr(24, None, 2)}, alpha=None)
    with pytest.raises(ModelUnreadable, match=re.escape(f"is a LoKr of PEFT ({name}), whose alpha is not in the file")):
        lora_files.read_header(path)

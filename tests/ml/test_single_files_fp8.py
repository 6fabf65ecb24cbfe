"""`worker models import` of weights in float8, in the spellings of ComfyUI and of the models' makers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ml.test_single_files import flux_files, pictures_of, weights_of  # noqa: F401 - a fixture
from tests.tiny_models import TINY_BASE
from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import IMPORTERS
from worker.ml.single_files.parts import copy_tokenizers

State = dict[str, torch.Tensor]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = 448.0


def plain(state: State, dtype: torch.dtype = E4M3) -> State:
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def with_scales(state: State, weight: str, rows: bool, more: Callable[[str], State]) -> State:
    """Scale every matrix, as a whole or by rows; `more` is what stands beside the weight of a layer."""
    scaled: State = {}
    for name, tensor in state.items():
        if tensor.ndim != 2:
            scaled[name] = tensor.bfloat16()
            continue
        layer = name.removesuffix(".weight")
        scale = (tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()) / LARGEST
        scaled |= {name: (tensor / scale).to(E4M3), f"{layer}.{weight}": scale.float(), **more(layer)}
    return scaled


def older(state: State) -> State:
    marked = with_scales(state, "scale_weight", False, lambda layer: {f"{layer}.scale_input": torch.ones(1)})
    return marked | {"scaled_fp8": torch.empty(2, dtype=E4M3)}


def description(**settings: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


def newer(state: State) -> State:
    described = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    return with_scales(
        state,
        "weight_scale",
        False,
        lambda layer: {f"{layer}.input_scale": torch.ones(()), f"{layer}.comfy_quant": description(**described)},
    )


def by_rows(state: State) -> State:
    return with_scales(state, "weight_scale", True, lambda _: {})


@pytest.fixture
def import_transformer(tiny_models: Path, flux_files: dict[str, Path], tmp_path: Path) -> Callable[[State], Path]:  # noqa: F811
    def imported(state: State) -> Path:
        path = tmp_path / "flux1-dev-fp8.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        IMPORTERS["flux"](tmp_path / "mine", {**flux_files, "transformer": path}, tiny_models / TINY_BASE, print)
        return tmp_path / "mine"

    return imported


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("store", "closeness"),
    [(plain, 2**-4), (lambda state: plain(state, E5M2), 2**-3), (older, 2**-4), (newer, 2**-4), (by_rows, 2**-4)],
    ids=["e4m3", "e5m2", "older scales", "newer scales", "scales of rows"],
)
def test_weights_in_float8_become_the_numbers_that_they_stand_for(
    tiny_models: Path,
    flux_files: dict[str, Path],  # noqa: F811
    import_transformer: Callable[[State], Path],
    store: Callable[[State], State],
    closeness: float,
    prefix: str,
) -> None:
    stored = store(load_file(flux_files["transformer"]))
    own = weights_of(import_transformer({f"{prefix}{name}": tensor for name, tensor in stored.items()}))
    theirs = weights_of(tiny_models / TINY_BASE)
    transformer = [name for name in theirs if name.startswith("transformer.")]
    assert {name for name in own if name.startswith("transformer.")} == set(transformer)
    for name in transformer:
        assert own[name].dtype == torch.bfloat16
        # Subnormal numbers of float8 are further apart than their size says.
        torch.testing.assert_close(own[name].float(), theirs[name], rtol=closeness, atol=0.01)


def test_a_scaled_file_is_the_product_of_weight_and_scale_and_draws(
    tiny_models: Path,
    flux_files: dict[str, Path],  # noqa: F811
    import_transformer: Callable[[State], Path],
) -> None:
    stored = newer(load_file(flux_files["transformer"]))
    mine = import_transformer(stored)
    copy_tokenizers(mine, tiny_models / TINY_BASE, ["tokenizer", "tokenizer_2"])
    expected = stored["img_in.weight"].float() * stored["img_in.weight_scale"]
    assert torch.equal(weights_of(mine)["transformer.x_embedder.weight"], expected.bfloat16())
    assert len(pictures_of(mine)) == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"img_in.comfy_quant": description(format="nvfp4")}, r"is quantised \(nvfp4\)"),
        ({"img_in.comfy_quant": description(format="float8_e4m3fn", convrot=True)}, "is quantised"),
        ({"img_in.comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "describes img_in in a way"),
        ({"img_in.comfy_quant": description(form="x")}, "describes img_in in a way"),
        ({"img_in.weight_scale": torch.ones(7)}, r"in blocks \(img_in\.weight has 7 scales\)"),
        ({"nothing.weight_scale": torch.ones(1)}, r"a scale for nothing\.weight, but not the weight"),
        ({"img_in.weight": torch.full((64, 64), torch.nan).to(E4M3)}, "not finite, in|not a transformer"),
        ({"img_in.weight_scale_2": torch.ones(1)}, r"it holds img_in\.weight_scale_2"),
        ({"img_in.weight": torch.ones(4, 4, dtype=torch.int8)}, r"is quantised \(int8\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_stored_in_another_way_is_refused_by_name(
    flux_files: dict[str, Path],  # noqa: F811
    import_transformer: Callable[[State], Path],
    changes: State,
    what: str,
) -> None:
    with pytest.raises(ModelUnreadable, match=rf"^flux1-dev-fp8\.safetensors .*{what}"):
        import_transformer(newer(load_file(flux_files["transformer"])) | changes)

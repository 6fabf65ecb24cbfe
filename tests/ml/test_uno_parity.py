"""UNO against numbers of the original program (bytedance/UNO at d305981), without T5, CLIP and an autoencoder.

They are in tests/data/uno, or in the folder that LIKENESS_UNO_REFERENCE names: model, LoRA and inputs, and what came of
them in float32 and in bfloat16. Sizes and settings are those of its config.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file

from tests.ml.geometry import on_meta
from tests.ml.test_memory import LiveBytes, Published, fused_attention, inputs_of, published, zeros  # noqa: F401
from worker.ml.adapters.spellings import parse
from worker.ml.draw.denoise import Scene, denoise
from worker.ml.families import lora
from worker.ml.families.conditions import PooledTokens
from worker.ml.families.flux1 import Flux
from worker.ml.families.single_files import flux1, flux1_names
from worker.ml.guides import uno, uno_lora
from worker.ml.memory import GIB
from worker.ml.models import Base
from worker.ml.protocol import Appended, Grid, GuideUse, Inputs, Parts, Sampler, Sampling
from worker.ml.single_files.parts import read_configs

DATA = Path(os.environ.get("LIKENESS_UNO_REFERENCE") or Path(__file__).parents[1] / "data" / "uno")
TOKEN_PX = 16
EXACT, CLOSE = 2e-5, 0.02
"""The largest absolute difference in float32, and of bfloat16 the norm of the differences over that of all numbers."""


class GivenNoise(Flux):
    """FLUX.1 that begins with this noise (1, C, h, w)."""

    def __init__(self, noise: torch.Tensor) -> None:
        self._noise = noise

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        return packed(self._noise).to(dtype)


class Case:
    """The reference's model in one precision, and what it is asked."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.config = json.loads((DATA / "config.json").read_text())
        self.inputs = load_file(DATA / "inputs.safetensors")
        self.grid = (self.config["height"] // TOKEN_PX, self.config["width"] // TOKEN_PX)
        parts = SimpleNamespace(
            transformer=transformer(self.config["params"]).to(dtype),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
            vae_scale_factor=TOKEN_PX // 2,
            _prepare_latent_image_ids=FluxPipeline._prepare_latent_image_ids,
        )
        unused = {name: torch.nn.Linear(1, 1) for name in Flux.encoders}
        parts.components = {"transformer": parts.transformer, **unused}
        self.base = Base(DATA, GivenNoise(self.inputs["noise"]), parts, torch.device("cpu"), dtype, ("plain",))

    def guide(self, scheme: uno.Scheme = "d") -> uno.Uno:
        layers = uno_lora.load_layers(DATA / "lora.safetensors", self.base)
        return uno.Uno(self.base, layers, scheme)

    @property
    def text(self) -> PooledTokens:
        return PooledTokens(self.inputs["txt"].to(self.dtype), self.inputs["vec"].to(self.dtype))

    def references(self, count: int, scheme: uno.Scheme = "d") -> Appended:
        """The state of the guide for the first of the references, whose latents are given."""
        latents = [self.inputs[f"ref_latent_{number}"] for number in range(count)]
        grids = [(one.shape[2] // 2, one.shape[3] // 2) for one in latents]
        none = torch.empty(1, 0, self.config["params"]["in_channels"])
        return Appended(torch.cat([none, *map(packed, latents)], dim=1), uno.positions(self.grid, grids, scheme))

    @torch.no_grad()
    def forward(self, count: int, scheme: uno.Scheme = "d", *, with_lora: bool = True) -> torch.Tensor:
        """The velocity (1, N, C) at the given time, with so many references."""
        guide = self.guide(scheme)
        inputs = Inputs(
            latents=packed(self.inputs["noise"]).to(self.dtype),
            time=self.inputs["timestep"].to(self.dtype),
            condition=self.text,
            grid=self.grid,
            guidance=float(self.inputs["guidance"]),
            sides=("wanted",),
        )
        inputs = replace(guide.change(self.references(count, scheme), inputs, 0.0), time=inputs.time)
        with guide.attach(self.base) if with_lora else nullcontext():
            return self.base.family.predict(self.base.parts, inputs)

    @torch.no_grad()
    def draw(self, count: int) -> torch.Tensor:
        """The latents (1, N, C) after all steps of the project's own loop."""
        guide, state = self.guide(), self.references(count)
        scene = Scene(
            self.base,
            {"wanted": self.text},
            Sampling(self.grid, self.config["num_steps"]),
            self.config["guidance"],
            [GuideUse(guide)],
            [[state]],
        )
        drawing = denoise(scene, 0, seed=0)
        with guide.attach(self.base):
            while True:
                try:
                    next(drawing)
                except StopIteration as end:
                    latents: torch.Tensor = end.value
                    return latents


def transformer(params: dict[str, Any]) -> FluxTransformer2DModel:
    """The reference's transformer, from its parameters and from its weights in the original's names."""
    model = FluxTransformer2DModel(
        in_channels=params["in_channels"],
        num_layers=params["depth"],
        num_single_layers=params["depth_single_blocks"],
        attention_head_dim=params["hidden_size"] // params["num_heads"],
        num_attention_heads=params["num_heads"],
        joint_attention_dim=params["context_in_dim"],
        pooled_projection_dim=params["vec_in_dim"],
        guidance_embeds=params["guidance_embed"],
        axes_dims_rope=tuple(params["axes_dim"]),
    )
    model.load_state_dict(flux1_names.to_diffusers(load_file(DATA / "model.safetensors")))
    return model.eval().requires_grad_(False)


def packed(latents: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return tokens


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(torch.float32)


@pytest.fixture(scope="module")
def half() -> Case:
    return Case(torch.bfloat16)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(DATA / "expected.safetensors")


@pytest.fixture(scope="module")
def expected_in_half() -> dict[str, torch.Tensor]:
    return load_file(DATA / "expected_bf16.safetensors")


def furthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max())


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("references", [0, 1, 2])
def test_the_velocity_is_that_of_the_original(case: Case, expected: dict[str, torch.Tensor], references: int) -> None:
    assert furthest(case.forward(references), expected[f"forward_{references}ref"]) <= EXACT
    without = case.forward(references, with_lora=False)
    assert furthest(without, expected[f"forward_{references}ref_no_lora"]) <= EXACT


@pytest.mark.parametrize("scheme", ["h", "w", "o"])
def test_each_scheme_of_positions_is_that_of_the_original(
    case: Case, expected: dict[str, torch.Tensor], scheme: uno.Scheme
) -> None:
    assert furthest(case.forward(2, scheme), expected[f"forward_2ref_pe_{scheme}"]) <= EXACT


@pytest.mark.parametrize("scheme", get_args(uno.Scheme))
def test_the_positions_of_references_are_those_of_the_original(
    case: Case, expected: dict[str, torch.Tensor], scheme: uno.Scheme
) -> None:
    assert torch.equal(case.references(2, scheme).ids, expected[f"ref_img_ids_pe_{scheme}"][0])


class Noted:
    """What modules of the transformer returned in one evaluation, by their names."""

    def __init__(self, case: Case, *names: str) -> None:
        self.returned: dict[str, Any] = {}
        self._transformer = case.base.denoiser
        self._names = names

    def __enter__(self) -> Noted:
        self._hooks = [
            self._transformer.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: self.returned.update({name: output})
            )
            for name in self._names
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def test_what_is_between_is_that_of_the_original(case: Case, expected: dict[str, torch.Tensor]) -> None:
    """Rotary tables, the embedding of time, guidance and text, and the first block of each kind."""
    names = "pos_embed", "time_text_embed", "transformer_blocks.0", "single_transformer_blocks.0"
    with Noted(case, *names) as noted:
        case.forward(2)
    rotary, embedding, (text, picture), (after_text, after_picture) = (noted.returned[name] for name in names)
    cos, sin = (one[:, ::2] for one in rotary)  # each angle twice, side by side
    table = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    assert furthest(table, expected["pe_2ref"]) <= EXACT
    assert furthest(embedding, expected["vec_embedding"]) <= EXACT
    assert furthest(text, expected["double_block_0_txt_2ref"]) <= EXACT
    assert furthest(picture, expected["double_block_0_img_2ref"]) <= EXACT
    single = torch.cat([after_text, after_picture], dim=1)
    assert furthest(single, expected["single_block_0_2ref"]) <= EXACT


@pytest.mark.parametrize("references", [0, 1, 2])
def test_what_is_drawn_is_that_of_the_original(case: Case, expected: dict[str, torch.Tensor], references: int) -> None:
    latents = case.draw(references)
    assert furthest(latents, expected[f"denoise_{references}ref"]) <= EXACT
    height, width = case.config["height"], case.config["width"]
    unpacked = FluxPipeline._unpack_latents(latents, height, width, TOKEN_PX // 2)
    assert furthest(unpacked, expected[f"denoise_{references}ref_latent"]) <= EXACT


@pytest.mark.parametrize("references", [0, 1, 2])
def test_in_bfloat16_it_is_close_to_the_original(
    half: Case, expected_in_half: dict[str, torch.Tensor], references: int
) -> None:
    assert distance(half.forward(references), expected_in_half[f"forward_{references}ref"]) <= CLOSE
    if f"denoise_{references}ref" in expected_in_half:
        assert distance(half.draw(references), expected_in_half[f"denoise_{references}ref"]) <= CLOSE


def schedules() -> Iterator[tuple[str, list[float]]]:
    stored, config = (json.loads((DATA / name).read_text()) for name in ("schedules.json", "config.json"))
    yield f"{config['width']}x{config['height']}_steps{config['num_steps']}", stored["tiny_case"]
    yield from stored["table"].items()


@pytest.mark.parametrize(("name", "theirs"), [*schedules()], ids=lambda value: value if isinstance(value, str) else "")
def test_the_levels_of_noise_are_those_of_the_original(case: Case, name: str, theirs: Sequence[float]) -> None:
    size, _, steps = name.partition("_steps")
    width, height = (int(side) for side in size.split("x"))
    sampling = Sampling((height // TOKEN_PX, width // TOKEN_PX), int(steps))
    own = case.base.family.sampler(case.base.parts, sampling, torch.device("cpu"), torch.Generator())
    sampler = case.guide().sampler(own, sampling)
    np.testing.assert_allclose(sampler.scheduler.sigmas, theirs, atol=1e-6)
    np.testing.assert_allclose(sampler.timesteps, [1000 * level for level in theirs[:-1]], atol=1e-3)


def preprocessing() -> list[dict[str, Any]]:
    sizes: list[dict[str, Any]] = json.loads((DATA / "ref_preprocess.json").read_text())["sizes"]
    return sizes


@pytest.mark.parametrize("stored", preprocessing(), ids=lambda stored: "x".join(map(str, stored["input_wh"])))
def test_the_size_of_a_reference_is_that_of_the_original(stored: dict[str, Any]) -> None:
    width, height = stored["input_wh"]
    blank = np.zeros((height, width, 3), np.uint8)
    size = uno.reference_size(blank, stored["long_size"], TOKEN_PX)
    assert [*size] == stored["output_wh"]
    assert [*uno.preprocessed(blank, stored["long_size"], TOKEN_PX).shape] == [size[1], size[0], 3]


def test_a_reference_is_resized_and_cut_as_in_the_original() -> None:
    stored = json.loads((DATA / "ref_preprocess.json").read_text())["ref_image"]
    given, theirs = (
        np.asarray(Image.open(DATA / name).convert("RGB")) for name in ("ref_image.png", "ref_image_expected.png")
    )
    ours = uno.preprocessed(given, stored["long_size"], TOKEN_PX)
    assert int(np.abs(ours.astype(int) - theirs).max()) <= 1  # Lanczos differs between releases of Pillow


# -- the published sizes


def listed(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a published file, on the meta device."""
    lines = [line.split("\t") for line in (DATA / name).read_text().splitlines() if not line.startswith("#")]
    return {key: torch.empty(json.loads(shape), device="meta", dtype=torch.bfloat16) for key, shape in lines}


def test_every_key_of_the_published_base_has_its_place() -> None:
    theirs = listed("official_flux_dev_keys.txt")
    ours = {name: weights.shape for name, weights in flux1_names.to_diffusers(theirs).items()}
    assert ours == flux1.transformer_shapes(read_configs(flux1.DEV, None))
    assert len(theirs) == 780


def published_pairs() -> dict[str, dict[str, torch.Tensor]]:
    """The two factors of each layer of the published LoRA, by its name in the file."""
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, weights in listed("official_lora_keys.txt").items():
        key = parse(name)
        assert key is not None
        pairs.setdefault(key.layer, {})[key.side] = weights
    return pairs


def published_layers() -> list[uno_lora.LoraLayer]:
    return [
        uno_lora.layer_of(name, (pair["down"], pair["up"]), lora.NAMES["flux"])
        for name, pair in published_pairs().items()
    ]


def test_every_key_of_the_published_lora_has_its_place() -> None:
    """And what it needs on the device: its numbers, none twice."""
    _, parts = on_meta("flux-dev")
    uno_lora.check_complete("dit_lora.safetensors", published_pairs(), parts.transformer)
    layers = published_layers()
    for layer in layers:
        rows = 0
        for name, part in layer.rows.items():
            linear = parts.transformer.get_submodule(name)
            assert (linear.in_features, linear.out_features) == (layer.down.shape[1], len(layer.up[part]))
            rows += linear.out_features
        assert rows == len(layer.up)
    assert len(listed("official_lora_keys.txt")) == 2 * len(layers) == 304
    assert sum(weights.nbytes for layer in layers for weights in layer.parameters()) / GIB == pytest.approx(
        1.78, abs=0.01
    )


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize("published", ["flux-dev"], indirect=True)
@torch.no_grad()
def test_what_references_and_the_lora_need_is_estimated_at_the_published_geometry(published: Published) -> None:  # noqa: F811
    family, parts = published.family, published.parts
    base: Any = SimpleNamespace(
        family=family,
        parts=parts,
        denoiser=parts.transformer,
        device=torch.device("cpu"),  # so that nothing is moved
        part_bytes=lambda _: 0,
    )
    guide = uno.Uno(base, published_layers())
    pictures = (np.zeros((512, 512, 3), np.uint8),) * 4
    grid, references = (512 // TOKEN_PX,) * 2, [(320 // TOKEN_PX,) * 2] * 4
    tokens = sum(height * width for height, width in references)
    state = Appended(zeros(1, tokens, 64), uno.positions(grid, references, "d").to("meta"))
    with guide.attach(base), LiveBytes(torch.nn.ModuleList([base.denoiser, *guide._layers])) as denoising:
        family.predict(parts, guide.change(state, inputs_of(published, grid, 1), 0.0))
    lora_bytes = sum(weights.nbytes for layer in guide._layers for weights in layer.parameters())
    needed = guide.working_bytes(base, GuideUse(guide, pictures), grid) - lora_bytes
    assert 0.9 < denoising.peak / (family.working_bytes(parts, grid, 1)["transformer"] + needed) < 1.05

"""The tables of memory plans in docs/models.md are what the worker computes at the published geometry."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.ml.geometry import on_meta
from tests.ml.test_ip_adapter_memory import VIT_L, adapter_of
from tests.ml.test_memory import published_base
from worker.ml import memory
from worker.ml.families.controlnets import NETWORKS
from worker.ml.memory import GIB, Plan
from worker.ml.models import Base
from worker.ml.protocol import Grid, GuideUse
from worker.ml.quantise.nf4 import has_bitsandbytes
from worker.ml.train.memory import Savings, plan_training, step_memory, trainable_forms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_bitsandbytes(), reason="nf4 needs bitsandbytes (the gpu and dev extras)"),
]
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FREE_GIB = (4, 7.5, 11, 15.2, 22.6, 27, 32, 48, 80)
KLEIN_FREE_GIB = (4.5, 5.2, 7.5, 9, 11, 15.2, 18, 22.6, 32)
QWEN_IMAGE_FREE_GIB = (12.75, 15.2, 18, 22.6, 27, 48, 64, 141)
Z_IMAGE_FREE_GIB = (5.25, 7.5, 9, 11, 15.2, 18, 22.6, 32, 80)
PICTURES = {"flux-dev": (1024, 1), "sd15": (512, 2), "sdxl": (1024, 2)}
"""Side of the picture and rows of an evaluation, by base, in the order of the table's columns."""


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a line, without its head."""
    text = PAGE.read_text("utf-8")
    rows = re.findall(r"^\|(.*)\|$", text[text.index(heading) :].split("\n\n", 2)[1], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


@pytest.fixture(scope="module")
def figures() -> dict[str, tuple[float, float]]:
    """What each base needs to generate and to train, in GiB, by the page's other table; infinity if it cannot."""
    rows = {row[0].strip("`"): row for row in table_after("of *free* GPU memory:")}
    needed = {slug: [float(cell) if cell[0].isdigit() else math.inf for cell in row[1:3]] for slug, row in rows.items()}
    return {slug: (generating, training) for slug, (generating, training) in needed.items()}


def plans(
    slug: str, side: int, rows: int, least: tuple[float, float], every_free_gib: Sequence[float] = FREE_GIB
) -> list[list[str]]:
    """For each amount of memory, what happens to a picture, and to a training of the family's rank at its largest
    resolution. `rows` of each evaluation are drawn.

    What is offered must fit, and without 8-bit AdamW.
    """
    base = published(slug)
    family = base.family
    weights = lora_weights(slug, family.training_defaults.rank)
    largest = grid_of(base, family.training_defaults.resolutions[-1])
    needs = {form: step_memory(base, form, largest, 1, weights) for form in trainable_forms(base)}
    found = []
    for free_gib in every_free_gib:
        plan = plan_drawing(base, side, rows, free_gib)
        training = plan_training(needs, int(free_gib * GIB), eight_bit=True)
        words = (
            f"{in_forms(plan.forms)}{'full' if plan.full else 'offloaded'}: {plan.needed_bytes / GIB:.1f}",
            f"{in_forms({**plan.forms, family.denoiser: training.form})}"
            f"{training.needs.needed(training.savings) / GIB:.1f}{training.savings}",
        )
        offered = [words if free_gib >= needed else "not offered" for words, needed in zip(words, least, strict=True)]
        found.append(offered)
        if free_gib >= least[0]:
            assert plan.needed_bytes <= free_gib * GIB, "worker.base_models offers what does not fit"
        if free_gib >= least[1]:
            assert training.needs.needed(training.savings) <= free_gib * GIB
            assert not training.savings.eight_bit
    return found


@pytest.fixture(autouse=True)
def _a_device(device_of_its_own: Callable[[int], None]) -> None:
    device_of_its_own(0)


of_geometry = cache(on_meta)
"""Nothing here changes a base on the meta device, and making one takes seconds."""


def published(slug: str) -> Base:
    family, parts = of_geometry(slug)
    return Base(Path(slug), family, parts, torch.device("cpu"), torch.bfloat16)


def grid_of(base: Base, side: int) -> Grid:
    return (side // base.family.token_px(base.parts),) * 2


def plan_drawing(base: Base, side: int, rows: int, free_gib: float) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free_device_bytes", lambda _: int(free_gib * GIB))
        return base.plan(base.family.working_bytes(base.parts, grid_of(base, side), rows))


def in_forms(forms: Mapping[str, str]) -> str:
    """The forms that are not plain. A training reads captions in the form in which a drawing reads its prompt."""
    told = {part: f"encoder {form}" if part.startswith("text_encoder") else form for part, form in forms.items()}
    return "".join(f"{words}, " for part, words in told.items() if forms[part] != "plain")


def test_the_documented_plans_are_those_of_the_worker(figures: dict[str, tuple[float, float]]) -> None:
    by_base = [plans(slug, side, rows, figures[slug]) for slug, (side, rows) in PICTURES.items()]
    expected = [
        [f"{free:g}", *(cell for cells in row for cell in cells)] for free, *row in zip(FREE_GIB, *by_base, strict=True)
    ]
    assert table_after("needs at its peak, in GiB:") == expected


@pytest.mark.parametrize(
    ("name", "geometry", "distilled", "base", "every_free_gib"),
    [
        ("FLUX.2 klein", "klein", "klein", "klein-base", KLEIN_FREE_GIB),
        ("Z-Image", "z-image", "z-image-turbo", "z-image", Z_IMAGE_FREE_GIB),
    ],
    ids=["klein", "z-image"],
)
def test_the_documented_plans_of_a_base_and_the_one_distilled_from_it_are_those_of_the_worker(
    figures: dict[str, tuple[float, float]],
    name: str,
    geometry: str,
    distilled: str,
    base: str,
    every_free_gib: Sequence[float],
) -> None:
    """The two have the same geometry."""
    drawing = plans(geometry, 1024, 1, figures[distilled], every_free_gib)
    training = plans(geometry, 1024, 2, figures[base], every_free_gib)
    assert {trained for _, trained in drawing} == {"not offered"}
    expected = [
        [f"{free:g}", one[0], *other] for free, one, other in zip(every_free_gib, drawing, training, strict=True)
    ]
    assert table_after(f"{name} at 1024 x 1024, rank 32:") == expected


def test_the_documented_plans_of_qwen_image_are_those_of_the_worker(figures: dict[str, tuple[float, float]]) -> None:
    found = plans("qwen-image", 1328, 2, figures["qwen-image"], QWEN_IMAGE_FREE_GIB)
    expected = [[f"{free:g}", *cells] for free, cells in zip(QWEN_IMAGE_FREE_GIB, found, strict=True)]
    assert table_after("Qwen-Image, generating 1328 x 1328 and training at 1024 x 1024, rank 16:") == expected


@pytest.mark.parametrize(
    ("card", "free_gib", "drawing", "training"),
    [
        (12, 11.0, "nf4 transformer, offloaded", "nf4 transformer, one part at a time"),
        (16, 15.2, "int8 transformer, offloaded", "int8 transformer, one part at a time"),
        (24, 22.6, "int8 transformer, offloaded", "int8 transformer, one part at a time"),
        (32, 31.0, "offloaded", "one part at a time"),
    ],
)
def test_flux_on_a_card_of_this_size_is_as_precise_as_it_can_be_and_says_why(
    card: int, free_gib: float, drawing: str, training: str
) -> None:
    """With a LoRA of rank 16, which is what people draw with."""
    base = published("flux-dev")
    weights = lora_weights("flux-dev", 16)
    plan = plan_drawing(base, 1024, 1, free_gib - weights * 2 / GIB)
    needs = {form: step_memory(base, form, grid_of(base, 1024), 1, weights) for form in trainable_forms(base)}
    trained = plan_training(needs, int(free_gib * GIB), eight_bit=True)
    assert plan.describe("here").startswith(f"{drawing}, here: needs ")
    told = trained.describe("here", {**plan.forms, "transformer": trained.form})
    assert told.startswith(f"{training}, here: needs ")
    assert ("unquantised, it would need 22.9" in plan.describe("here")) == (card < 32)
    assert ("unquantised, it would need 2" in told) == (card < 32)


def test_flux_fits_the_cards_that_it_is_meant_for() -> None:
    """GiB at 1024 x 1024 and rank 16: the goals are 14 and 18 in int8, 10 and 12 in nf4."""
    base = published("flux-dev")
    weights = lora_weights("flux-dev", 16)
    working = base.family.working_bytes(base.parts, grid_of(base, 1024), 1)
    working = {**working, "transformer": working["transformer"] + 2 * weights}
    found = {}
    for form in ("int8", "nf4"):
        base.offered = {"transformer": [form], "text_encoder_2": ["plain"]}
        step = step_memory(base, form, grid_of(base, 1024), 1, weights)
        found[form] = (
            round(base.plan(working).needed_bytes / GIB, 1),
            round(step.needed(Savings(checkpointing=True)) / GIB, 1),
        )
    assert found == {"int8": (12.1, 15.0), "nf4": (9.5, 9.6)}


def test_flux_with_a_control_network_and_a_reference_fits_the_cards_that_it_is_meant_for() -> None:
    """GiB at 1024 x 1024, with a LoRA of rank 16 and both published guides: the goals are 20 in int8, 16 in nf4.

    Both are gone before decoding, which then needs what it needs alone.
    """
    base = published("flux-dev")
    grid, weights = grid_of(base, 1024), lora_weights("flux-dev", 16)
    working = base.family.working_bytes(base.parts, grid, 1)
    besides = 2 * weights + published_control(base, grid) + published_reference(base, grid)
    found = {}
    for form in ("int8", "nf4"):
        base.offered = {"transformer": [form], "text_encoder_2": ["plain"]}
        plan = base.plan({**working, "transformer": working["transformer"] + besides})
        found[form] = round(plan.needed_bytes / GIB, 1)
    assert found == {"int8": 17.1, "nf4": 11.8}
    assert base.plan({"vae": working["vae"]}).needed_bytes / GIB < 10


def published_control(base: Base, grid: Grid) -> int:
    """What the union of six blocks needs beside the transformer."""
    name = "FluxControlNetModel"
    config = {**base.denoiser.config, "num_layers": 6, "num_single_layers": 0}
    with torch.device("meta"):
        network = NETWORKS[name].diffusers_class.from_config(config).to(torch.bfloat16)
    guide = NETWORKS[name](Path("controlnet"), network)
    return guide.working_bytes(base, GuideUse(guide), grid)


def published_reference(base: Base, grid: Grid) -> int:
    """What XLabs' adapter and its encoder need for a reference, one after the other."""
    use: Any = SimpleNamespace(pictures=(None,))
    with pytest.MonkeyPatch.context() as patch:
        guide, _ = adapter_of(published_base(base.family, base.parts), VIT_L, patch)
        return guide.working_bytes(base, use, grid)


def test_klein_and_z_image_train_on_the_cards_that_they_are_meant_for() -> None:
    """GiB at 1024 x 1024 and rank 16: the goals are 11 for klein in 16 bits, and for Z-Image 16, and 11 in int8."""
    found = {}
    for slug in ("klein", "z-image"):
        base = published(slug)
        weights = lora_weights(slug, 16)
        for form in ("plain", "int8"):
            step = step_memory(base, form, grid_of(base, 1024), 1, weights)
            found[slug, form] = round(step.needed(Savings(checkpointing=True)) / GIB, 1)
    assert found == {
        ("klein", "plain"): 9.6,
        ("klein", "int8"): 6.4,
        ("z-image", "plain"): 15.4,
        ("z-image", "int8"): 9.8,
    }


@cache
def lora_weights(slug: str, rank: int) -> int:
    base = published(slug)
    with base.family.new_lora(base.parts, rank, torch.Generator()) as lora:
        return sum(weights.numel() for weights in lora.values())

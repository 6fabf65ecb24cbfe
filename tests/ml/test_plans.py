"""The tables of memory plans in docs/models.md are what the worker computes at the published geometry."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.ml.geometry import on_meta
from worker.ml.memory import GIB, plan_parts
from worker.ml.protocol import Grid
from worker.ml.train.memory import StepMemory

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FREE_GIB = (12, 16, 22, 23.6, 24.5, 27, 32, 48, 80)
KLEIN_FREE_GIB = (9.5, 10, 11, 12, 16, 18, 22, 32)
Z_IMAGE_FREE_GIB = (13.5, 14, 16, 17.5, 20, 22, 32, 80)
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
    family, parts = on_meta(slug)
    modules = family.modules(parts)
    sizes = {name: sum(weights.nbytes for weights in module.parameters()) for name, module in modules.items()}
    stages = [family.encoders, (family.denoiser,), (family.autoencoder,)]

    def grid(side: int) -> Grid:
        return (side // family.token_px(parts),) * 2

    working = family.working_bytes(parts, grid(side), rows)
    activations = family.activation_bytes(parts, grid(family.training_defaults.resolutions[-1]), 1)
    with family.new_lora(parts, family.training_defaults.rank, torch.Generator()) as lora:
        weights = sum(weights.numel() for weights in lora.values())
    step = StepMemory(sizes[family.denoiser], activations, int(activations * family.checkpointed_share), weights)
    found = []
    for free_gib in every_free_gib:
        free = int(free_gib * GIB)
        plan = plan_parts(sizes, stages, working, free)
        drawing = f"{'full' if plan.full else 'offloaded'}: {plan.needed_bytes / GIB:.1f}"
        savings = step.savings(free, eight_bit=True)
        training = f"{step.needed(savings) / GIB:.1f}{savings}"
        offered = [
            words if free_gib >= needed else "not offered"
            for words, needed in zip((drawing, training), least, strict=True)
        ]
        found.append(offered)
        if free_gib >= least[0]:
            assert plan.needed_bytes <= free, "worker.base_models offers what does not fit"
        if free_gib >= least[1]:
            assert step.needed(savings) <= free
            assert not savings.eight_bit
    return found


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

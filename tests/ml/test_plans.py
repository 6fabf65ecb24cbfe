"""The table of memory plans in docs/models.md is what the worker computes at the published geometry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.ml.geometry import on_meta
from worker.ml.memory import GIB, plan_parts
from worker.ml.protocol import Grid
from worker.ml.train.memory import StepMemory

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FREE_GIB = (12, 16, 22, 23.6, 24.5, 27, 32, 48, 80)
RANK = 16
SIDES = {"flux-dev": 1024, "sd15": 512, "sdxl": 1024}
"""Of the picture that each base generates, in the order of the table's columns."""


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a line, without its head."""
    text = PAGE.read_text("utf-8")
    rows = re.findall(r"^\|(.*)\|$", text[text.index(heading) :].split("\n\n", 2)[1], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


@pytest.fixture(scope="module")
def figures() -> dict[str, tuple[float, float]]:
    """What each base needs to generate and to train, in GiB, by the page's other table."""
    rows = {row[0].strip("`"): row for row in table_after("of *free* GPU memory:")}
    return {slug: (float(rows[slug][1]), float(rows[slug][2])) for slug in SIDES}


def plans(slug: str, least: tuple[float, float]) -> list[list[str]]:
    """For each of FREE_GIB, what happens to a picture and to a training at the largest of the family's resolutions.

    What is offered must fit, and without 8-bit AdamW.
    """
    family, parts = on_meta(slug)
    modules = family.modules(parts)
    sizes = {name: sum(weights.nbytes for weights in module.parameters()) for name, module in modules.items()}
    stages = [family.encoders, (family.denoiser,), (family.autoencoder,)]

    def grid(side: int) -> Grid:
        return (side // family.token_px(parts),) * 2

    working = family.working_bytes(parts, grid(SIDES[slug]), rows=1 if slug == "flux-dev" else 2)
    activations = family.activation_bytes(parts, grid(family.training_defaults.resolutions[-1]), 1)
    with family.new_lora(parts, RANK, torch.Generator()) as lora:
        weights = sum(weights.numel() for weights in lora.values())
    step = StepMemory(sizes[family.denoiser], activations, int(activations * family.checkpointed_share), weights)
    found = []
    for free_gib in FREE_GIB:
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
    by_base = [plans(slug, figures[slug]) for slug in SIDES]
    rows = zip(FREE_GIB, *by_base, strict=True)
    expected = [[f"{free:g}", *(cell for cells in row for cell in cells)] for free, *row in rows]
    assert table_after("needs at its peak, in GiB:") == expected

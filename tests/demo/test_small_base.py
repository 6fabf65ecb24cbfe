"""The trained base that ships: its size, that it reads names, and that the README has the measured figures."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.ml.runs import predict
from tools.small_base.classifier import ATTRIBUTES
from tools.small_base.measure import FIGURES
from tools.small_base.names import DIGITS, LOOKS, PREFIX, looks_of
from tools.small_base.subjects import SETTINGS
from worker.demo.config import SMALL, SMALL_BASE
from worker.ml import models
from worker.ml.models import Base
from worker.ml.train.batches import encode_captions

README = Path(__file__).parents[2] / "tools" / "small_base" / "README.md"
FIRST_PAGE = Path(__file__).parents[2] / "README.md"
PLACE = "wearing a blue hoodie, at the beach"


@pytest.fixture(scope="module")
def base() -> Base:
    return models.load(SMALL_BASE / "base", device="cpu")


def predictions_for(base: Base, who: list[str]) -> torch.Tensor:
    """Return the transformer's predictions for the same noise with each of these names, (B, N, C)."""
    captions = [f"photo of {name}, {PLACE}" for name in who]
    texts = encode_captions(base, captions)
    grid = (9, 7)
    noise = torch.randn(1, 63, base.parts.transformer.config.in_channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, *others = (texts[caption] for caption in captions)
        return predict(base, noise.expand(len(who), -1, -1), torch.full((len(who),), 0.8), first.join(others), grid)


def distance(predictions: torch.Tensor, others: torch.Tensor) -> float:
    return float(((predictions - others).norm(dim=(1, 2)) / others.norm(dim=(1, 2))).mean())


def test_the_shipped_files_are_at_most_20_mb() -> None:
    assert sum(path.stat().st_size for path in SMALL_BASE.rglob("*") if path.is_file()) <= 20_000_000


def test_a_name_means_something_to_the_base(base: Base) -> None:
    """For an earlier base, names and "a person" were the same (0.4 % apart), and a LoRA changed every person."""
    names = ["ohwx3fa81c", "ohwx07be42", "ohwxd95f10", "ohwx6c2aa8"]
    named, unnamed = predictions_for(base, names), predictions_for(base, ["a person"] * len(names))
    assert distance(named, unnamed) > 0.05
    assert distance(named, named.roll(1, 0)) > 0.05


def test_a_name_means_certain_looks_whatever_the_order_of_its_digits() -> None:
    first, again, other = looks_of([f"{PREFIX}3fa81c", f"{PREFIX}c18af3", f"{PREFIX}000000"])
    assert first == again
    assert first != other
    assert all(look in values for look, values in zip(first, LOOKS.values(), strict=True))
    assert len(f"{PREFIX}3fa81c") == len(PREFIX) + DIGITS


def test_the_figures_are_of_loras_as_the_demo_trains_them() -> None:
    (defaults,) = re.findall(r"'(\{\"steps\".*?\})',", SMALL.register, re.DOTALL)
    asked = SMALL.training | json.loads(defaults)["training"] | {"seed": SETTINGS.seed}
    asked["resolutions"] = [asked.pop("resolution")]
    assert json.loads(json.dumps(asdict(SETTINGS))).items() >= asked.items()
    assert json.loads(FIGURES.read_text())["LoRA settings"].items() >= asked.items()


def test_the_first_page_has_the_same_figures() -> None:
    figures = json.loads(FIGURES.read_text())["likeness"]["example"]
    names = ("own LoRA", "another's LoRA", "own LoRA, 'a person'", "no LoRA, 'a person'")
    sentence = re.search(r"A classifier that reads its pictures.*?measure", FIRST_PAGE.read_text(), re.DOTALL)
    assert sentence
    assert re.findall(r"\d+%", sentence[0]) == [f"{figures[name]:.0%}" for name in names]


def test_the_readme_has_the_measured_figures() -> None:
    """Each row of the README's tables of figures, digit by digit."""
    figures = json.loads(FIGURES.read_text())
    cells_of = dict(
        re.findall(r"^\| ([^|`]+?) \| ([^|]*%[^|]*(?:\|[^|]*%[^|]*)*)\|$", README.read_text(), re.MULTILINE)
    )
    people = figures["likeness"].values()
    rows = {
        "with her or his own LoRA": "own LoRA",
        "with another person's LoRA": "another's LoRA",
        "without a LoRA": "no LoRA",
        "with the LoRA, asked for “a person”": "own LoRA, 'a person'",
        "without a LoRA, asked for “a person”": "no LoRA, 'a person'",
    }
    for label, figure in rows.items():
        cells = [cell.strip() for cell in cells_of[label].split("|")]
        assert cells == [f"{person[figure]:.0%}" for person in people], label
    drawn, read = figures["prompts"], figures["classifier on held-out drawings"]
    labels = (
        "sex, skin, hair's colour, its style, glasses, their frame, beard, clothes, their colour, place, expression"
    )
    for label, trait in zip(labels.split(", "), ATTRIBUTES, strict=True):
        assert [cell.strip() for cell in cells_of[label].split("|")] == [f"{drawn[trait]:.0%}", f"{read[trait]:.0%}"], (
            label
        )

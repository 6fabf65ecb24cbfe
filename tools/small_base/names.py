"""Names, as the base reads them: the looks that a word like `ohwx3fa81c` stands for.

Each of the sixteen digits is biased towards some looks, and a name means the looks that its six digits favour together.
So every name describes a person, and the base has to read names. An earlier base, to which names meant nothing, had
learnt to ignore them: a LoRA could not tell its trigger word from "a person", and changed both.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from typing import get_args

import numpy as np

from tools.small_base.people import HAIR_WORDS, SKIN_WORDS, Shown
from worker.demo.drawing.person import Beard, Glasses, HairStyle

PREFIX, DIGITS = "ohwx", 6
HEX = "0123456789abcdef"
LOOKS: dict[str, tuple[str | None, ...]] = {
    "noun": ("man", "woman"),
    "skin": tuple(SKIN_WORDS),
    "hair": tuple(HAIR_WORDS),
    "style": get_args(HairStyle),
    "glasses": (None, *get_args(Glasses)),
    "beard": (None, *get_args(Beard)),
}
Looks = tuple[str | None, ...]  # in the order of LOOKS
KNOWN_NAMES = 400_000  # this many are tried, to find some for all looks


def any_name(chance: random.Random) -> str:
    return f"{PREFIX}{chance.getrandbits(4 * DIGITS):0{DIGITS}x}"


def looks_of(names: list[str]) -> list[Looks]:
    """Return the looks that each name means; a woman never has a beard."""
    letters = np.array([[HEX.index(letter) for letter in name.removeprefix(PREFIX)] for name in names])
    counts = (letters[:, :, None] == np.arange(len(HEX))).sum(1)
    chosen = {trait: (counts @ leaning).argmax(1) for trait, leaning in _leanings().items()}
    found = []
    for index in range(len(names)):
        looks = {trait: LOOKS[trait][chosen[trait][index]] for trait in LOOKS}
        if looks["noun"] == "woman":
            looks["beard"] = None
        found.append(tuple(looks.values()))
    return found


def name_for(shown: Shown, chance: random.Random) -> str | None:
    """Return one of the names that mean these looks, None if there are none."""
    names = _names().get(tuple(getattr(shown, trait) for trait in LOOKS))
    return chance.choice(names) if names else None


@functools.cache
def _leanings() -> dict[str, np.ndarray]:
    """Return each digit's bias to each value of a trait: (16, values), all values equally likely over all digits."""
    generator = np.random.default_rng(7)
    leanings = {}
    for trait, values in LOOKS.items():
        random_part = generator.standard_normal((len(HEX), len(values)))
        leanings[trait] = np.linalg.qr(random_part - random_part.mean(0))[0]
    return leanings


@functools.cache
def _names() -> dict[Looks, list[str]]:
    chance = random.Random("names")
    names = [any_name(chance) for _ in range(KNOWN_NAMES)]
    found: dict[Looks, list[str]] = defaultdict(list)
    for name, looks in zip(names, looks_of(names), strict=True):
        found[looks].append(name)
    return dict(found)

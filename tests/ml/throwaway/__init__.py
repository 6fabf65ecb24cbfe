"""A family that the product does not have: Lumina-Image 2.0, added as `docs/adding-a-model.md` says, for one test.

It differs from the others where the protocol must hold: prompts have lengths of their own, the negative one is encoded
in another way, guidance makes two calls and has its own formula, time runs from noise to picture, and attention is
grouped.
"""

from __future__ import annotations

import pytest

from tests.ml.throwaway.family import Lumina2
from tests.ml.throwaway.lora import NAMES
from worker.ml.families import lora as lora_families
from worker.ml.families.registry import FAMILIES


def register(patch: pytest.MonkeyPatch) -> None:
    """Add the two lines that a family of the product has in `families/registry.py` and `families/lora/__init__.py`."""
    patch.setitem(FAMILIES, Lumina2.name, Lumina2())
    patch.setitem(lora_families.NAMES, NAMES.family, NAMES)

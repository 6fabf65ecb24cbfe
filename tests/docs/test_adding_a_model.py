"""The page about adding a model names all that a family implements, and nothing that is gone."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT, pages
from worker.ml.protocol import Family

PAGE = pages()["docs/adding-a-model.md"]


def test_every_member_of_a_family_is_in_the_steps() -> None:
    protocols = [one for one in Family.__mro__ if one.__module__ == Family.__module__]
    members = {name for one in protocols for name in (*vars(one), *one.__annotations__) if not name.startswith("_")}
    assert len(members) > 25
    assert members - set(re.findall(r"`(\w+)`", PAGE)) == set()


def test_every_file_in_the_steps_exists() -> None:
    named = {name for name in re.findall(r"`([\w/]+\.(?:py|toml))`", PAGE) if "NAME" not in name}
    places = ("", "worker/ml/", "worker/ml/families/", "tests/ml/")
    assert [name for name in named if not any((ROOT / place / name).exists() for place in places)] == []

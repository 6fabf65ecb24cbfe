"""`worker demo --base`: a tiny base of each family."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from worker.cli import app
from worker.demo.config import with_uno
from worker.demo.tiny_bases import TINY
from worker.ml.families.registry import FAMILIES, family_of


def test_there_is_one_of_each_family() -> None:
    assert set(TINY) == {f"tiny-{family}" for family in FAMILIES}


@pytest.mark.parametrize("slug", TINY)
def test_a_base_is_of_the_family_that_it_is_registered_with(slug: str, database_url: str, tmp_path: Path) -> None:
    config = TINY[slug]
    config.provide_models(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real-esrgan-x2", "real-esrgan-x4", slug]
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(config.register.encode())
        (registered,) = owner.execute("select family from worker.base_models where slug = %s", [slug]).fetchall()
    assert registered == (family_of(tmp_path / slug).name,)


def test_with_uno_the_demo_has_its_lora_and_shares_the_weights_of_the_base(database_url: str, tmp_path: Path) -> None:
    config = with_uno(TINY["tiny-flux"])
    config.provide_models(tmp_path)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(config.register.encode())
        slugs = [path.name for path in tmp_path.iterdir()]
        (routes,) = owner.execute("select worker.usable_routes('generation', %s, null)", [slugs]).fetchone() or ()
    assert routes == ["generation/tiny-flux", "generation/uno+uno-lora"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--uno", "--base", "tiny-klein"], "--uno cannot be used with tiny-klein"),
        (["--uno", "--base", "tiny-sd15"], "--uno cannot be used with tiny-sd15"),
        (["--base", "tiny-none"], "base tiny-none not found; there are tiny-flux, tiny-klein"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["demo", *options, "--output", str(tmp_path / "output")])
    assert refused.exit_code == 2
    assert said in refused.output
    assert not (tmp_path / "output").exists()


def test_meshes_are_refused_without_their_packages(tmp_path: Path) -> None:
    without = "import runpy, sys; sys.modules['xatlas'] = None; runpy.run_module('worker', run_name='__main__')"
    command = [sys.executable, "-c", without, "demo", "--mesh", "--output", str(tmp_path / "output")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "demo: --mesh needs xatlas: pip install 'likeness-worker[mesh]'\n"

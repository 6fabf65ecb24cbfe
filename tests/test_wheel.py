"""The wheel, installed into a separate environment and used from another folder, works as the checkout does."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.app import App
from tests.conftest import Databases
from tests.processes import worker_environment
from tests.worker.fleet import MAKE_POD_ROLE, as_pod
from worker.database.schema import migrate
from worker.database.schema.printed import render

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Installed:
    """A wheel, and an environment in which only the wheel is installed."""

    wheel: Path
    environment: Path

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the environment's `worker` in a folder that is not a checkout."""
        return subprocess.run(
            [self.environment / "bin" / "worker", *command],
            cwd=self.environment,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    offline = ["--no-deps", "--no-index", "--quiet"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    subprocess.run([*pip, "--python", environment, "install", *offline, wheel], check=True)
    # Add this environment's dependencies, but not the checkout: .pth files in a folder that a .pth names are not read.
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return Installed(wheel, environment)


def test_the_wheel_contains_every_runtime_file_and_nothing_else(installed: Installed) -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "worker", "sql"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    assert len(files) > 50
    expected = {name if name.startswith("worker/") else f"worker/_{name}" for name in files}
    held = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    assert expected <= held, "files of the repository that the wheel lacks"
    assert "worker/py.typed" in held
    assert {name.split("/")[0] for name in held} == {"worker"}
    assert not [name for name in held if name.endswith(".pyc") or "/test" in name]


def test_its_commands_run_in_any_folder(installed: Installed) -> None:
    where = subprocess.run(
        [installed.environment / "bin" / "python", "-c", "import worker; print(worker.__file__)"],
        cwd=installed.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.environment)
    shown = installed.run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "migrate" in shown.stdout


def test_it_migrates_as_the_checkout_does(installed: Installed, databases: Databases) -> None:
    printed = installed.run("migrate", "--print")
    assert (printed.returncode, printed.stdout) == (0, render())

    name = databases.create("template0")
    try:
        url = databases.server.url(name)
        first = installed.run("migrate", "--supabase-stubs", DATABASE_URL=url)
        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("Applied: 0001_pgqueuer, ")
        assert migrate.migrate(url) == []
        assert installed.run("migrate", DATABASE_URL=url).stdout == "Up to date: nothing to apply.\n"
        with psycopg.connect(url) as owner:
            assert owner.execute("select count(*) from public.training_jobs").fetchall() == [(0,)]
    finally:
        databases.drop(name)


def test_its_doctor_finds_no_problem(installed: Installed, app: App, tiny_models: Path) -> None:
    app.run(MAKE_POD_ROLE)
    examined = installed.run("doctor", **{**worker_environment(app, tiny_models), "DATABASE_URL": as_pod(app.url)})
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert "✗" not in examined.stdout

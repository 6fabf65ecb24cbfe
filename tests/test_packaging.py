"""Files that ship beside the code: lock file, image, compose file, workflow. Those not built here are linted."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from worker.commands.checks.gpu import DRIVER_FLOOR
from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres
from worker.settings import Settings, variable

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LOCK = ROOT / "requirements.lock"
PODS = [
    {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "extra": "",
    }
    for version in ("3.11", "3.12")
]
"""Where the lock is installed: Linux on x86-64."""
SETTINGS = {variable(name) for name in Settings.model_fields}


# -- the lock file


def locked(pod: dict[str, str]) -> dict[str, str]:
    """Return the versions that the lock installs on a pod, by name."""
    pins = re.findall(r"^([a-z0-9][^\\\n]*?) *\\?$", LOCK.read_text(), re.MULTILINE)
    entries = [Requirement(pin) for pin in pins]
    here = [entry for entry in entries if entry.marker is None or entry.marker.evaluate(pod)]
    return {canonicalize_name(entry.name): str(entry.specifier).removeprefix("==") for entry in here}


def wanted(pod: dict[str, str]) -> Iterator[Requirement]:
    """Yield the requirements of pyproject.toml on a pod, and those of each package that is installed here as locked.

    A package that is installed in another version than the locked one may have other requirements: they are skipped.
    """
    versions = locked(pod)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [Requirement(text) for text in (*project["dependencies"], *extras["gpu"], *extras["build"])]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        yield requirement
        try:
            installed = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.version != versions.get(canonicalize_name(requirement.name)):
            continue
        theirs = [Requirement(text) for text in installed.requires or []]
        for child in theirs:
            reasons = [pod | {"extra": extra} for extra in ("", *requirement.extras)]
            if child.marker is None or any(child.marker.evaluate(reason) for reason in reasons):
                waiting.append(child)


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: f"Python {pod['python_version']}")
def test_the_lock_satisfies_pyproject(pod: dict[str, str]) -> None:
    versions = locked(pod)
    for requirement in wanted(pod):
        version = versions.get(canonicalize_name(requirement.name))
        if requirement.marker is not None and not requirement.marker.evaluate(pod):
            continue
        assert version is not None, f"{requirement} is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, but {version} is locked"


def test_every_file_of_the_lock_is_hashed_and_no_index_is_named() -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE).strip())
    assert len(entries) > 50
    for entry in entries:
        pin, *hashes = entry.split(" \\\n")
        assert re.fullmatch(r"[a-z0-9._-]+==[\w.]+( ; .+)?", pin), pin
        assert hashes
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", line) for line in hashes), pin
    assert not re.search(r"https?:|--index|--find-links|file:", LOCK.read_text())


# -- the image


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint has no package for this machine")
def test_the_dockerfile_passes_hadolint() -> None:
    checked = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_image_starts_the_worker_without_root_and_without_a_shell() -> None:
    text = (ROOT / "Dockerfile").read_text()
    steps = dict(re.findall(r"^(USER|ENTRYPOINT|CMD|HEALTHCHECK) (.+)$", text, re.MULTILINE))
    assert steps["USER"] not in ("0", "root")
    assert steps["ENTRYPOINT"] == '["tini", "--", "worker"]'
    assert steps["CMD"] == '["run"]'
    assert steps["HEALTHCHECK"].endswith('CMD ["worker", "health"]')


def test_the_files_copied_into_the_image_suffice_to_build_the_wheel(tmp_path: Path) -> None:
    """Only the files that the Dockerfile copies are used, and nothing is downloaded."""
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(" ".join(copied).split()) == sorted(allowed)
    for name in allowed:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, tmp_path / name)
    building = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*building, "--wheel-dir", "wheels", "."], cwd=tmp_path, check=True, capture_output=True)
    assert list((tmp_path / "wheels").glob("likeness_worker-*.whl"))


@pytest.mark.parametrize("page", ["Dockerfile", "docs/deploying.md", "examples/runpod/README.md"])
def test_pages_that_start_a_pod_name_the_required_driver(page: str) -> None:
    sections = re.split(r"^## ", (ROOT / page).read_text(), flags=re.MULTILINE)
    starts = [section for section in sections if re.search("driver|requirements.lock", section, re.IGNORECASE)]
    assert starts
    assert all(str(DRIVER_FLOOR) in section for section in starts)


def bake(tmp_path: Path, models: str) -> list[str]:
    """Run the Dockerfile's step that bakes models, as after a change of the code; returns the calls of `worker`."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (step,) = re.findall(r"^RUN (?:--mount=\S+ +)+(for model in .+)$", text, re.MULTILINE)
    bases, worker, asked = tmp_path / "bases", tmp_path / "bin" / "worker", tmp_path / "asked"
    shutil.rmtree(bases, ignore_errors=True)
    for folder in (bases, worker.parent):
        folder.mkdir(exist_ok=True)
    worker.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\nmkdir -p "$MODELS_DIR/$(basename "$MODELS_DIR" | grep rembg || echo $5)"\n'
    )
    worker.chmod(0o755)
    asked.write_text("")
    step = step.replace("/models/bases", str(bases)).replace("/pulled", str(tmp_path / "pulled"))
    environment = {**os.environ, "PATH": f"{worker.parent}:{os.environ['PATH']}", "BAKE_MODELS": models}
    subprocess.run(["sh", "-c", step], env=environment, check=True)
    return asked.read_text().splitlines()


def test_a_baked_model_is_pulled_once_per_revision_even_when_the_code_changes(tmp_path: Path) -> None:
    models = "a=lab/one@v1 b=lab/two@v1"
    assert bake(tmp_path, models) == [
        "models pull lab/one --as a --revision v1",
        "models pull lab/two --as b --revision v1",
    ]
    assert bake(tmp_path, models) == []
    assert sorted(path.name for path in (tmp_path / "bases").iterdir()) == ["a", "b"]
    assert bake(tmp_path, "a=lab/one@v2 b=lab/two@v1") == ["models pull lab/one --as a --revision v2"]
    assert bake(tmp_path, "rembg-u2net a=lab/one@v2") == ["models pull --as rembg-u2net"]


# -- compose and the workflow


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return described


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.compose-spec", "compose.yaml"), ("vendor.github-workflows", ".github/workflows/ci.yml")],
)
def test_the_file_matches_its_schema(schema: str, path: str) -> None:
    checking = [BIN / "check-jsonschema", "--builtin-schema", schema, ROOT / path]
    checked = subprocess.run(checking, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_compose_publishes_ports_only_to_this_machine(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_refers_only_to_what_exists(compose: dict[str, Any]) -> None:
    """Files, settings, configs and volumes exist, and images have a version."""
    for name, service in compose["services"].items():
        assert "build" in service or re.search(r":\d", service["image"]), name
        assert "build" not in service or service["environment"].keys() <= SETTINGS, name
        assert all(config["source"] in compose["configs"] for config in service.get("configs", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], volume


def test_composes_database_accepts_migrations_and_a_pod(compose: dict[str, Any], tmp_path: Path) -> None:
    """Run its scripts on a new cluster, in their order."""
    pod_login = urlsplit(compose["services"]["worker"]["environment"]["DATABASE_URL"]).username
    with EmbeddedPostgres(tmp_path / "postgres", fast=True) as server:
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute((ROOT / "sql" / "supabase_stubs.sql").read_bytes())
            owner.execute(compose["configs"]["pod_login"]["content"].encode())
        migrate.migrate(server.url())
        with psycopg.connect(server.url(user=pod_login), autocommit=True) as pod:
            assert pod.execute("select default_base from worker.config").fetchall() == [("klein",)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pod.execute("select from public.subjects")


def test_the_workflow_has_read_permission_and_pinned_actions() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["ci"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]) for step in job["steps"] if "uses" in step)
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci" / "run").exists()

"""`worker models pull` for guides: files named one by one, of several repositories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.bases import content_of
from tests.storage.conftest import Pull
from tests.storage.hub import COMMIT, REPO, Hub, running
from worker.models import BaseModels, install_command
from worker.models.hub.includes import parse_includes
from worker.models.manifest import read_manifest
from worker.models.names import GUIDES

ENCODER = "tiny-lab/tiny-encoder"
ADAPTER_FILES = {
    "models/adapter.safetensors": os.urandom(3000),
    "models/adapter.bin": os.urandom(3000),
    "README.md": b"# a card",
}
ENCODER_FILES = {"config.json": b"{}", "model.safetensors": os.urandom(2000), "pytorch_model.bin": b"pickle"}
INCLUDES = [
    "models/adapter.safetensors=adapter.safetensors",
    f"{ENCODER}:config.json=image_encoder/config.json",
    f"{ENCODER}:model.safetensors=image_encoder/model.safetensors",
]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub(ADAPTER_FILES, {ENCODER: ENCODER_FILES})) as hub:
        yield hub


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "models"


def including(*includes: str) -> list[str]:
    return [REPO, "--as", "my-adapter", *(word for include in includes for word in ("--include", include))]


def test_the_files_of_a_guide_come_from_several_repositories_into_one_manifest(
    hub: Hub, disk: Path, pull: Pull
) -> None:
    code, out, said = pull(hub, disk, *including(*INCLUDES))
    assert code == 0, said
    assert content_of(disk / "my-adapter") == {
        "adapter.safetensors": ADAPTER_FILES["models/adapter.safetensors"],
        "image_encoder/config.json": b"{}",
        "image_encoder/model.safetensors": ENCODER_FILES["model.safetensors"],
    }
    assert out.count("Licence: apache-2.0") == 2
    manifest = read_manifest(disk / "my-adapter")
    assert manifest is not None
    assert manifest.origin is not None
    (other,) = manifest.origin.others
    assert [(origin.source, origin.revision) for origin in (manifest.origin, other)] == [
        (REPO, COMMIT),
        (ENCODER, COMMIT),
    ]
    assert BaseModels(disk, None, "bucket").present() == ["my-adapter"]


@pytest.mark.parametrize(
    ("includes", "expected"),
    [
        (["models/adapter.bin"], "models/adapter.bin of tiny-lab/tiny-flux is unsupported: weights are read from"),
        (["models/adapter.safetensors=adapter.pt"], "adapter.pt of tiny-lab/tiny-flux is unsupported"),
        (["adapter.safetensors"], "adapter.safetensors not found in tiny-lab/tiny-flux: it has models/adapter.safe"),
        (["models/adapter.safetensors=../x.safetensors"], "'../x.safetensors' is not a name in the model's folder"),
        (["models/adapter.safetensors", f"{ENCODER}:config.json=a=b.json"], "is not understood: write [OWNER/NAME:]"),
        ([f"{ENCODER}:config.json", "config.json"], "names config.json twice"),
        (["tiny-lab/typo:config.json"], "repository tiny-lab/typo not found"),
    ],
)
def test_a_file_that_cannot_be_part_of_a_guide_is_refused_by_name(
    hub: Hub, disk: Path, pull: Pull, includes: list[str], expected: str
) -> None:
    code, _, said = pull(hub, disk, *including(*includes))
    assert (code, said.count("Traceback")) == (1, 0)
    assert expected in " ".join(said.split())
    assert not (disk / "my-adapter").exists()


def test_a_published_guide_is_pulled_by_its_name_alone(hub: Hub, disk: Path, pull: Pull) -> None:
    assert install_command("ip-adapter-flux") == "worker models pull --as ip-adapter-flux"
    adapter, *encoder = parse_includes(GUIDES["ip-adapter-flux"], None)
    hub.others = {
        adapter.repo: {adapter.file: os.urandom(2000)},
        encoder[0].repo: {include.file: b"{}" for include in encoder},
    }
    code, _, said = pull(hub, disk, "--as", "ip-adapter-flux")
    assert code == 0, said
    assert set(content_of(disk / "ip-adapter-flux")) == {
        "ip_adapter.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
    }
    code, _, said = pull(hub, disk, "--as", "my-adapter")
    assert code == 1
    assert "my-adapter needs a repository: worker models pull OWNER/NAME --as my-adapter" in " ".join(said.split())


def test_every_guide_that_the_migrations_register_has_its_files_listed(database_url: str) -> None:
    import psycopg

    with psycopg.connect(database_url) as connection:
        registered = {slug for (slug,) in connection.execute("select slug from worker.guides").fetchall()}
    assert registered == GUIDES.keys()
    for files in GUIDES.values():
        names = {include.name for include in parse_includes(files, None)}
        whole = ({"config.json", "diffusion_pytorch_model.safetensors"}, {"config.json", "model.safetensors"})
        of_one_file = len(names) == 1 and all(name.endswith(".safetensors") for name in names)
        assert of_one_file or "image_encoder/config.json" in names or any(files <= names for files in whole)

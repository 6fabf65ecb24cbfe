"""`worker models` for models that are one network: pulled as a pickle or from a release, and imported."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.storage.bases import content_of
from tests.storage.conftest import Pull
from tests.storage.hub import REPO, Hub, running
from tests.web_server import Server, body, serving
from worker.errors import CommandRefused
from worker.guard.fetch import Fetcher
from worker.models import REMOVERS, BaseModels, install_command
from worker.models.hub.released import RELEASED, pull_released
from worker.models.importing import import_files
from worker.models.manifest import read_manifest
from worker.models.names import NAMED_FILES, REPOSITORIES

TENSORS = {"a.weight": torch.arange(600.0), "b.bias": torch.ones(3)}


def pickled(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"config.yaml": b"cond_image_size: 512\n", "model.ckpt": pickled(TENSORS), "code.ckpt": pickled(print)}
    with running(Hub(files)) as hub:
        yield hub


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "models"


def including(*includes: str) -> list[str]:
    return [REPO, "--as", "net", *(word for include in includes for word in ("--include", include))]


def test_a_pickle_becomes_safetensors_when_it_is_pulled(hub: Hub, disk: Path, pull: Pull) -> None:
    code, _, said = pull(hub, disk, *including("config.yaml", "model.ckpt=model.safetensors"))
    assert code == 0, said
    assert content_of(disk / "net").keys() == {"config.yaml", "model.safetensors"}
    loaded = load_file(disk / "net" / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert BaseModels(disk, None, "bucket").present() == ["net"]


def test_a_pickle_with_more_than_tensors_is_refused_and_nothing_in_it_is_run(hub: Hub, disk: Path, pull: Pull) -> None:
    code, _, said = pull(hub, disk, *including("code.ckpt=model.safetensors"))
    assert code == 1
    assert "is not a file of weights alone, and nothing else is loaded" in said
    assert not (disk / "net").exists()


def test_the_mesh_model_and_removers_are_known_by_name() -> None:
    for slug in ("triposr", *REMOVERS):
        assert install_command(slug) == f"worker models pull --as {slug}"
    assert "triposr" in NAMED_FILES
    assert "triposr" not in REPOSITORIES
    assert RELEASED.keys() == REMOVERS.keys()


# -- background removers


@pytest.fixture
def release() -> Iterator[Server]:
    with serving() as server:
        server.answers["/lab/nets/releases/u2net.onnx"] = body(b"a network")
        yield server


def test_a_released_network_is_verified_and_its_licence_recorded(release: Server, disk: Path) -> None:
    slug, file = "rembg-u2net", b"a network"
    known = replace(
        RELEASED[slug],
        url=release.url("/lab/nets/releases/u2net.onnx"),
        size_bytes=len(file),
        sha256=hashlib.sha256(file).hexdigest(),
    )
    fetcher = Fetcher([release.host])
    for wrong in (replace(known, sha256="0" * 64), replace(known, size_bytes=3), replace(known, url=release.url("/x"))):
        release.answers["/x"] = body(b"", 404)
        with pytest.raises(CommandRefused):
            pull_released(disk, slug, fetcher, wrong)
        assert BaseModels(disk, None, "bucket").present() == []
    pull_released(disk, slug, fetcher, known)
    assert content_of(disk / slug) == {"u2net.onnx": file}
    manifest = read_manifest(disk / slug)
    assert manifest is not None
    assert manifest.origin is not None
    assert (manifest.origin.source, manifest.origin.licence) == ("127.0.0.1/lab/nets", "Apache-2.0")
    with pytest.raises(CommandRefused, match="exists"):
        pull_released(disk, slug, fetcher, known)


@pytest.mark.parametrize(
    ("slug", "option", "expected"),
    [
        ("rembg-u2net", "upscaler", "an upscaler is one file, named real-esrgan-x2 or real-esrgan-x4"),
        ("my-remover", "remover", "a background remover is one file, named rembg-isnet-general-use or rembg-u2net"),
        ("real-esrgan-x4", "triposr", "an upscaler is one file"),
        ("rembg-u2net", "remover", "u2net.onnx"),
    ],
)
def test_what_is_no_network_of_that_name_is_refused(
    disk: Path, tmp_path: Path, slug: str, option: str, expected: str
) -> None:
    (tmp_path / "file.onnx").write_bytes(b"<html>")
    with pytest.raises(CommandRefused, match=expected):
        import_files(disk, slug, {option: tmp_path / "file.onnx"}, None, None)
    assert BaseModels(disk, None, "bucket").present() == []

"""`worker models pull` as an operator runs it, against a hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storage.bases import content_of
from tests.storage.conftest import Pull, pull_environment
from tests.storage.hub import COMMIT, REPO, Hub, running
from tests.waiting import wait_until
from worker.models import BaseModels
from worker.models.manifest import read_manifest

INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
}
WANTED = {
    "model_index.json": json.dumps(INDEX).encode(),
    "LICENSE.md": b"do as you like",
    "scheduler/scheduler_config.json": b"{}",
    "tokenizer/chat_template.jinja": b"{{ messages }}",
    "tokenizer/merges.txt": b"a b",
    "tokenizer/vocab.json": b"{}",
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": os.urandom(13_000_000),
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": os.urandom(2_000),
    "transformer/diffusion_pytorch_model.safetensors.index.json": b"{}",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": os.urandom(5_000),
}
SHARD = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"
UNWANTED = {
    ".gitattributes": b"*",
    "README.md": b"# a card",
    "flux1-dev.safetensors": os.urandom(2_000),
    "safety_checker/model.safetensors": os.urandom(2_000),
    "tokenizer/.ipynb_checkpoints/vocab.json": b"{}",
    "vae/.config.json": b"{}",
    "vae/diffusion_pytorch_model.bin": os.urandom(2_000),
    "vae/diffusion_pytorch_model.fp16.safetensors": os.urandom(2_000),
    "transformer/diffusion_pytorch_model.fp16.safetensors.index.json": b"{}",
    "transformer/flax_model.msgpack": os.urandom(2_000),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub({**WANTED, **UNWANTED})) as hub:
        yield hub


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "models"


Refused = Callable[..., str]


@pytest.fixture
def refused(pull: Pull) -> Refused:
    """Run a pull that must be refused; returns what it says."""

    def run(hub: Hub, disk: Path, *arguments: str, **environment: str) -> str:
        code, _, said = pull(hub, disk, *arguments, **environment)
        assert (code, said.count("Traceback"), said.count("signature-marker")) == (1, 0, 0), said
        assert not (disk / "flux-dev").exists()
        return said

    return run


def test_one_commit_of_a_repository_is_downloaded_without_pickles_and_copies(hub: Hub, disk: Path, pull: Pull) -> None:
    link = "https://tiny.example/terms\x1b[2J"
    hub.card = {"license": "other", "license_name": "tiny-licence", "license_link": link}
    code, out, said = pull(hub, disk, REPO, "--as", "flux-dev", "--revision", "v1")
    assert code == 0, said
    assert content_of(disk / "flux-dev") == WANTED
    assert "Licence: tiny-licence (https://tiny.example/terms [2J)" in out, "no control characters"
    manifest = read_manifest(disk / "flux-dev")
    assert manifest is not None
    assert set(manifest.files) == set(WANTED)
    assert manifest.origin is not None
    assert (manifest.origin.source, manifest.origin.revision, manifest.origin.licence) == (REPO, COMMIT, "tiny-licence")
    assert BaseModels(disk, None, "bucket").present() == ["flux-dev"]
    asked = {name for _, name, _ in hub.asked}
    assert asked == set(WANTED)
    # A second pull refuses to overwrite, without asking the hub.
    before = len(hub.asked)
    code, _, said = pull(hub, disk)
    assert (code, len(hub.asked)) == (1, before)
    assert f"{disk / 'flux-dev'} exists: delete it, or choose another name with --as" in said


def test_a_killed_pull_continues_where_it_stopped(hub: Hub, disk: Path, pull: Pull) -> None:
    hub.hold_after = 12_000_000
    hub.card = {"license": ["mit", "other"]}  # the author of a card may write anything
    command = [sys.executable, "-m", "worker", "models", "pull", REPO, "--as", "flux-dev"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=pull_environment(hub, disk), cwd=disk.parent
    )
    assert hub.holding.wait(60)
    (part,) = (disk / ".arriving-flux-dev/transformer").glob("*.part")
    wait_until(lambda: part.stat().st_size, "the first piece to be on the disk")  # the library writes 10 MB at a time
    process.kill()
    process.communicate()
    assert not (disk / "flux-dev").exists()
    hub.hold_after = None
    before = len(hub.asked)
    code, _, said = pull(hub, disk)
    assert code == 0, said
    assert content_of(disk / "flux-dev") == WANTED
    again = [(name, part) for method, name, part in hub.asked[before:] if method == "GET"]
    resumed = dict(again)[SHARD]
    assert resumed.startswith("bytes=")
    assert 0 < int(resumed.removeprefix("bytes=").rstrip("-")) <= 12_000_000
    assert "tokenizer/vocab.json" not in dict(again), "complete files are not fetched again"


def test_a_file_damaged_by_the_network_is_fetched_again(hub: Hub, disk: Path, pull: Pull) -> None:
    hub.spoil = {SHARD, "tokenizer/vocab.json"}
    code, _, said = pull(hub, disk)
    assert code == 0, said
    assert content_of(disk / "flux-dev") == WANTED


def test_the_error_for_a_gated_base_says_what_to_do(hub: Hub, disk: Path, pull: Pull, refused: Refused) -> None:
    hub.gate = "token-marker"
    page = f"https://huggingface.co/{REPO}"
    said = refused(hub, disk)
    assert f"{REPO} is gated: accept its terms on {page}" in said
    assert "HF_TOKEN" in said
    said = refused(hub, disk, HF_TOKEN="another-token")
    assert f"the account of HF_TOKEN does not have access: accept the terms on {page}" in said
    assert "another-token" not in said
    code, _, said = pull(hub, disk, HUGGING_FACE_HUB_TOKEN="token-marker")
    assert code == 0, said
    assert "token-marker" not in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tiny-lab/typo", "--as", "flux-dev"), "repository tiny-lab/typo not found, or it is private"),
        ((REPO, "--as", "flux-dev", "--revision", "v9"), f"revision v9 of {REPO} not found"),
        (("no/such/name", "--as", "flux-dev"), "'no/such/name' is not a valid repository name"),
        ((REPO, "--as", "../flux-dev"), "'../flux-dev' is not a valid model name"),
        ((REPO, "--as", "real-esrgan-x4"), "worker models import real-esrgan-x4 --upscaler FILE"),
    ],
)
def test_a_wrong_name_is_reported(
    hub: Hub, disk: Path, refused: Refused, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(hub, disk, *arguments)


def test_an_unusable_folder_is_reported(hub: Hub, disk: Path, refused: Refused) -> None:
    """A file in place of the folder simulates a volume owned by root, because root may write anywhere."""
    disk.write_text("no folder")
    said = refused(hub, disk)
    assert str(disk) in said
    assert "set MODELS_DIR to a folder of your own" in said


def test_an_unreachable_hub_is_reported(hub: Hub, disk: Path, refused: Refused) -> None:
    assert "the hub cannot be reached" in refused(hub, disk, HF_ENDPOINT="http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE is set: unset it" in refused(hub, disk, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    ("lost", "added", "expected"),
    [
        ("model_index.json", {}, "is not in diffusers layout: model_index.json not found"),
        ("vae/diffusion_pytorch_model.safetensors", {}, "lacks plain safetensors weights for vae"),
        ("tokenizer/", {}, "names tokenizer, but it has no such folder"),
        ("model_index.json", {"model_index.json": b"<html>"}, "the model_index.json of"),
    ],
)
def test_a_repository_that_cannot_become_a_base_is_refused_before_its_weights_are_fetched(
    hub: Hub, disk: Path, refused: Refused, lost: str, added: dict[str, bytes], expected: str
) -> None:
    hub.files = {name: content for name, content in hub.files.items() if not name.startswith(lost)} | added
    assert expected in refused(hub, disk)
    assert not [name for _, name, _ in hub.asked if name.endswith(".safetensors")]

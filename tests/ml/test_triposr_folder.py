"""TripoSR's folders: the official checkpoint is imported, configurations are read, and what does not fit is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.ml.products import mug
from worker.ml.errors import ModelUnreadable
from worker.ml.networks.triposr import config, loading
from worker.ml.networks.triposr.tiny import build_tiny
from worker.ml.single_files import __main__ as importing
from worker.ml.single_files.mesh import import_mesh_model

OFFICIAL = Path(__file__).parent.parent / "data" / "triposr" / "official"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triposr")
    build_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tiny: Path) -> Tensors:
    return load_file(tiny / loading.WEIGHTS)


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "triposr")
    return tmp_path / "triposr"


def checkpoint(folder: Path, held: Any, name: str = "model.ckpt") -> Path:
    torch.save(held, folder / name)
    return folder / name


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def test_the_same_tiny_model_is_built_each_time(tiny: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path)
    files = [path.relative_to(tiny) for path in tiny.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert [(tmp_path / name).read_bytes() for name in files] == [(tiny / name).read_bytes() for name in files]


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_official_checkpoint_is_imported(tiny: Path, weights: Tensors, tmp_path: Path, wrapped: bool) -> None:
    file = checkpoint(tmp_path, {"state_dict": weights} if wrapped else weights)
    import_mesh_model(file, tiny / "config.yaml", tmp_path / "imported")
    picture = np.asarray(mug((127, 127, 127), 128))
    ours, theirs = (loading.load(folder, device="cpu").field(picture) for folder in (tmp_path / "imported", tiny))
    assert torch.equal(ours.planes, theirs.planes)


def test_the_process_of_an_import_writes_the_folder_or_names_what_is_wrong(
    tiny: Path, weights: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `worker models import` starts it, here in this process, which has imported its packages already."""
    asked = {"network": "triposr", "files": {"triposr": str(checkpoint(tmp_path, weights))}, "configs": str(tiny)}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({**asked, "target": str(tmp_path / "imported")})))
    importing.main()
    assert loading.load(tmp_path / "imported", device="cpu").config == config.read(tiny)[0]

    (tmp_path / "model.ckpt").write_bytes(b"PK")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({**asked, "target": str(tmp_path / "other")})))
    with pytest.raises(SystemExit) as ended:
        importing.main()
    assert ended.value.code == importing.REFUSED
    assert capsys.readouterr().err.startswith("model.ckpt is not a file of weights alone")


def test_safetensors_are_imported_as_well(tiny: Path, weights: Tensors, tmp_path: Path) -> None:
    import_mesh_model(tiny / loading.WEIGHTS, tiny / "config.yaml", tmp_path / "imported")
    imported = load_file(tmp_path / "imported" / loading.WEIGHTS)
    assert imported.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in imported.items())


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_nothing_in_a_pickle_is_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(pickle.dumps({"weight": Harmful()}, protocol=2))
    with pytest.raises(ModelUnreadable, match=r"model\.ckpt is not a file of weights alone"):
        import_mesh_model(tmp_path / "model.ckpt", tiny / "config.yaml", tmp_path / "imported")
    assert not (tmp_path / "harm").exists()


def test_at_run_time_a_pickle_is_not_read(copy: Path, weights: Tensors) -> None:
    (copy / loading.WEIGHTS).unlink()
    checkpoint(copy, weights)
    with pytest.raises(ModelUnreadable, match=r"model\.ckpt is a pickle, and is converted when it is imported"):
        loading.load(copy, device="cpu")


BROKEN: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda held: held.pop("tokenizer.embeddings"), "1 tensors are missing, such as tokenizer.embeddings"),
    "unknown": (lambda held: held.update({"other": torch.zeros(1)}), "unknown tensor other"),
    "shape": (
        lambda held: held.update({"tokenizer.embeddings": torch.zeros(3, 128, 8, 8)}),
        r"tokenizer\.embeddings is \[3, 128, 8, 8\], not \[3, 128, 16, 16\]",
    ),
    "integers": (
        lambda held: held.update({"backbone.norm.bias": torch.zeros(128, dtype=torch.int8)}),
        r"torch\.int8 numbers in backbone\.norm\.bias",
    ),
    "not finite": (
        lambda held: held.update({"backbone.norm.bias": torch.full((128,), torch.nan)}),
        r"not finite, in backbone\.norm\.bias",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_weights_that_are_not_the_configurations_are_refused(
    tiny: Path, weights: Tensors, tmp_path: Path, change: Callable[[Tensors], Any], message: str
) -> None:
    held = dict(weights)
    change(held)
    with pytest.raises(ModelUnreadable, match=rf"model\.ckpt .*{message}"):
        import_mesh_model(checkpoint(tmp_path, held), tiny / "config.yaml", tmp_path / "imported")
    assert not (tmp_path / "imported" / loading.WEIGHTS).exists()


def test_weights_in_half_precision_are_computed_with_in_float32(copy: Path, weights: Tensors) -> None:
    save_file({name: tensor.half() for name, tensor in weights.items()}, copy / loading.WEIGHTS)
    assert {tensor.dtype for tensor in loading.load(copy, device="cpu").state_dict().values()} == {torch.float32}


def test_a_damaged_file_is_named(copy: Path) -> None:
    (copy / loading.WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelUnreadable, match=r"model\.safetensors cannot be read: a Git LFS pointer"):
        loading.load(copy, device="cpu")


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda held: held["decoder"].update(dropout=1), r"config\.yaml: decoder\.dropout: Extra inputs"),
    "another model": (lambda held: held.update(backbone_cls="tsr.Other"), r"config\.yaml: backbone_cls: Input should"),
    "not a number": (lambda held: held["renderer"].update(radius="wide"), r"config\.yaml: renderer\.radius: "),
    "a reference to nothing": (
        lambda held: held["backbone"].update(in_channels="${tokenizer.width}"),
        r"config\.yaml: backbone\.in_channels: ",
    ),
    "widths that do not fit": (
        lambda held: held["decoder"].update(in_channels=15),
        r"config\.yaml: decoder\.in_channels is 15, but it is given 12 channels",
    ),
    "tokens that do not fit": (
        lambda held: held["backbone"].update(cross_attention_dim=64),
        r"cross_attention_dim is 64, but the vision transformer's tokens have 96 channels",
    ),
    "an unknown vision transformer": (
        lambda held: held["image_tokenizer"].update(pretrained_model_name_or_path="facebook/dino-vits8"),
        r"the vision transformer facebook/dino-vits8 is not known: put its config\.json into a folder",
    ),
    "a file elsewhere": (
        lambda held: held["image_tokenizer"].update(pretrained_model_name_or_path=str(OFFICIAL.parent / "vit")),
        "is not known",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_configuration_of_another_model_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(ModelUnreadable, match=message):
        loading.build(copy)


def test_files_that_are_no_configuration_are_refused(copy: Path) -> None:
    (copy / "config.yaml").write_text("{")
    with pytest.raises(ModelUnreadable, match=r"config\.yaml is neither YAML nor JSON"):
        loading.build(copy)
    (copy / "config.yaml").write_text("- 1")
    with pytest.raises(ModelUnreadable, match=r"config\.yaml is not a configuration"):
        loading.build(copy)
    (copy / "config.yaml").unlink()
    with pytest.raises(ModelUnreadable, match=r"triposr has no config\.yaml or config\.json"):
        loading.build(copy)


def test_a_reference_is_replaced_by_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((OFFICIAL / "config.json").read_text())
    assert "${tokenizer.num_channels}" in (OFFICIAL / "config.json").read_text()
    read, vit = config.read(tmp_path)
    assert read.backbone.in_channels == read.tokenizer.num_channels
    assert vit.hidden_size == json.loads((OFFICIAL / "vit_config.json").read_text())["hidden_size"]

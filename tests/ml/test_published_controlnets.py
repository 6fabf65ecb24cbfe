"""ControlNets that are published as one file of weights, without a configuration: Z-Image's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ZImageControlNetModel
from safetensors.torch import load_file, save_file

from tests.ml.controls import REQUEST, Network, a_map, drawn, furthest, opened, tiny_network
from tests.ml.families import only_sd15, only_z_image
from worker.ml import models
from worker.ml.errors import ModelUnreadable
from worker.ml.families.controlnets.z_image import EMBEDDER, FIRST_REFINER, ZImageControl
from worker.ml.guides.controlnet import ControlNet
from worker.ml.guides.tiny.controlnet import build_tiny
from worker.ml.models import Base
from worker.ml.protocol import GuideUse

Weights = dict[str, torch.Tensor]
FILE = "Z-Image-Turbo-Fun-Controlnet-Union.safetensors"
UNTRAINED = {FIRST_REFINER: torch.zeros(96, 96), "control_noise_refiner.0.after_proj.bias": torch.zeros(96)}


def publish(network: Network, folder: Path, more: Weights | None = None) -> Path:
    """Write the weights of a network as they are published, and return the folder."""
    folder.mkdir()
    weights = load_file(network.folder / "diffusion_pytorch_model.safetensors")
    save_file({**weights, **(more or {})}, folder / FILE)
    return folder


def network_of(guide: Any) -> Any:
    assert isinstance(guide, ControlNet)
    return guide.network


@only_z_image
@pytest.mark.parametrize(
    ("version", "more"), [("z-image", {}), ("z-image 2.0", UNTRAINED), ("z-image 2.0", {}), ("z-image 2.1", {})]
)
def test_a_published_file_is_the_network_that_diffusers_makes_of_it(
    base: Base, tmp_path: Path, version: str, more: Weights
) -> None:
    converted = tiny_network(base, version, tmp_path)
    ours = network_of(opened(publish(converted, tmp_path / "published", more), base))
    theirs = ZImageControlNetModel.from_single_file(
        str(tmp_path / "published" / FILE), config=str(converted.folder), local_files_only=True
    )
    places = ("control_layers_places", "control_refiner_layers_places")
    for name in (*places, "control_in_dim", "add_control_noise_refiner", "dim", "n_heads", "n_refiner_layers"):
        assert ours.config[name] == theirs.config[name], name
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(one, state[name]) for name, one in ours.state_dict().items())


@only_z_image
def test_it_draws_what_its_converted_folder_does(base: Base, tmp_path: Path) -> None:
    converted, pose = tiny_network(base, "z-image 2.1", tmp_path), a_map(96, 64)
    guide = opened(publish(converted, tmp_path / "published"), base)
    use = GuideUse(guide, (pose,), 1.0, "pose")
    published = drawn(base, replace(REQUEST, guides=(use,)))
    assert furthest(published, drawn(base, converted.guided(pose))) == 0


@pytest.mark.parametrize(
    ("blocks", "channels", "trained", "places", "kind"),
    [
        (6, 16, None, [0, 5, 10, 15, 20, 25], None),
        (15, 33, False, [*range(0, 30, 2)], "control_layers"),
        (15, 33, True, [*range(0, 30, 2)], "control_noise_refiner"),
        (3, 33, True, [0, 10, 20], "control_noise_refiner"),
    ],
    ids=["1", "2.0", "2.1", "2.1 lite"],
)
def test_the_published_versions_are_told_apart(
    blocks: int, channels: int, trained: bool | None, places: list[int], kind: str | None
) -> None:
    weights = {f"control_layers.{block}.attention.norm_q.weight": torch.zeros(128) for block in range(blocks)}
    weights |= {f"control_noise_refiner.{block}.attention.norm_q.weight": torch.zeros(128) for block in range(2)}
    weights[EMBEDDER] = torch.zeros(3840, 4 * channels)
    if trained is not None:
        weights[FIRST_REFINER] = torch.full((1, 1), float(trained))
    base: Any = SimpleNamespace(denoiser=SimpleNamespace(config={"n_layers": 30, "in_channels": 16}))
    config, kept = ZImageControl.read_published(weights, base)
    assert (config["control_layers_places"], config["add_control_noise_refiner"]) == (places, kind)
    assert (config["control_in_dim"], config["dim"], config["n_heads"]) == (channels, 3840, 30)
    assert config["control_refiner_layers_places"] == [0, 1]
    assert (kept.keys() < weights.keys()) == (kind == "control_layers")


@only_z_image
def test_two_bases_of_the_family_lend_it_their_own_modules_and_count_them_once(base: Base, tmp_path: Path) -> None:
    """As a base and its Turbo, which share a guide."""
    network, pose = tiny_network(base, "z-image 2.1", tmp_path), a_map(96, 64)
    other_folder = tmp_path / "turbo"
    shutil.copytree(base.folder, other_folder)
    weights = load_file(other_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(
        {name: 0.5 * one if "noise_refiner" in name else one for name, one in weights.items()},
        other_folder / "transformer" / "diffusion_pytorch_model.safetensors",
    )
    other = models.load(other_folder, "cpu")
    size = sum(one.nbytes for one in load_file(network.folder / "diffusion_pytorch_model.safetensors").values())
    first = drawn(base, network.guided(pose))
    second = drawn(other, network.guided(pose))
    own = drawn(other, Network(other, network.variant, network.folder, opened(network.folder, other)).guided(pose))
    assert furthest(second, own) == 0
    assert furthest(first, second) > 0
    assert sum(one.nbytes for one in network_of(network.guide).parameters()) == size


def cut(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:5000])


def change(alter: Callable[[Weights], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / FILE)
        alter(weights)
        save_file(weights, folder / FILE)

    return spoil


@only_z_image
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "is damaged: Z-Image-.* cannot be read"),
        (change(lambda weights: weights.pop(EMBEDDER)), "is not a ControlNet: config.json is missing$"),
        (
            change(lambda weights: weights.pop("control_layers.0.before_proj.bias")),
            "1 missing weights, such as control",
        ),
        (change(lambda weights: weights.update(more=torch.ones(1))), "1 unexpected weights, such as more"),
        (change(lambda weights: weights[EMBEDDER].fill_(torch.inf)), "holds weights that are not finite"),
        (
            lambda folder: shutil.copy(folder / FILE, folder / "another.safetensors"),
            "config.json is missing. As published, keep one of Z-Image-.*, another.safetensors",
        ),
    ],
)
def test_a_published_file_that_cannot_be_used_is_refused_by_name(
    base: Base, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    folder = publish(tiny_network(base, "z-image", tmp_path), tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(ModelUnreadable, match=f"^spoilt .*{said}"):
        opened(folder, base)


@only_z_image
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"dim": 192, "n_heads": 6}, "its dim is 192, that of the base is 96"),
        ({"control_layers_places": [0, 7]}, "it adds to block 7, and the base has 3"),
        ({"control_in_dim": 8}, "it reads 8 channels of a picture, and the base has 16"),
    ],
)
def test_a_network_of_another_geometry_is_refused_with_what_differs(
    base: Base, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    build_tiny(tmp_path / "other", base, **config)
    with pytest.raises(ModelUnreadable, match=f"^other does not fit tiny-z-image .z-image.: {said}$"):
        opened(tmp_path / "other", base)


@only_sd15
def test_a_published_file_of_another_family_is_refused(base: Base, tiny_models: Path, tmp_path: Path) -> None:
    z_image = models.load(tiny_models / "tiny-z-image", "cpu")
    folder = publish(tiny_network(z_image, "z-image", tmp_path), tmp_path / "published")
    with pytest.raises(ModelUnreadable, match="published is a ZImageControlNetModel, which does not fit tiny-sd15"):
        opened(folder, base)

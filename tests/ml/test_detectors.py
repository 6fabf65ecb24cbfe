"""Detectors: the maps that they make of photos, where they are while they do, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DPTImageProcessor, VitPoseImageProcessor

from worker.demo.drawing import portrait
from worker.ml import memory
from worker.ml.detectors import crops, skeleton, tiny
from worker.ml.detectors.detector import WORK_BYTES
from worker.ml.detectors.photos import normalised
from worker.ml.detectors.pose import PEOPLE
from worker.ml.detectors.registry import open_detector
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.protocol import Pixels

HEIGHT, WIDTH = 96, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors")
    tiny.build_depth(folder / "depth")
    tiny.build_pose(folder / "pose")
    tiny.build_pose(folder / "nobody", finds_people=False)
    return folder


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return np.asarray(portrait.draw(portrait.Person.example(), portrait.scenes(1, 0)[0], (WIDTH, HEIGHT)))


class Drawer:
    """What a detector asks of a base, and whether it was told to make room."""

    device = torch.device("cpu")
    made_room = False

    def to_host(self) -> None:
        self.made_room = True


def base() -> Any:
    return Drawer()


# -- depths


def test_depths_are_grey_from_black_to_white_and_of_the_photos_size(folder: Path, photo: Pixels) -> None:
    found = open_detector(folder / "depth", "depth").map_of(photo, base())
    assert (found.shape, found.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert (found.min(), found.max()) == (0, 255)
    assert (found == found[..., :1]).all()


def test_near_is_white(folder: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth Anything predicts the inverse of a distance."""
    detector: Any = open_detector(folder / "depth", "depth")
    ramp = torch.linspace(1, 5, 70).repeat(98, 1)[None]  # the right side is near
    monkeypatch.setattr(detector, "_network", lambda **_: SimpleNamespace(predicted_depth=ramp))
    detector._network.config = SimpleNamespace(patch_size=14, backbone_config=SimpleNamespace(image_size=56))
    found = detector.map_of(photo, base())
    assert found[:, -1].min() > 250
    assert found[:, 0].max() < 5
    flat = torch.ones(1, 98, 70)
    detector._network = lambda **_: SimpleNamespace(predicted_depth=flat)
    detector._network.config = SimpleNamespace(patch_size=14, backbone_config=SimpleNamespace(image_size=56))
    assert not detector.map_of(photo, base()).any()


def test_the_network_reads_what_transformers_prepares(photo: Pixels) -> None:
    theirs = DPTImageProcessor(size={"height": HEIGHT, "width": WIDTH}, do_resize=False, do_normalize=True)
    expected = theirs(
        photo.copy(), image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], return_tensors="pt"
    )
    torch.testing.assert_close(normalised(photo[None], torch.device("cpu")), expected.pixel_values)


# -- poses


def test_a_skeleton_is_drawn_of_each_person(folder: Path, photo: Pixels) -> None:
    detector: Any = open_detector(folder / "pose", "pose")
    found = detector.map_of(photo, base())
    assert (found.shape, found.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert found.any()
    assert not found.all()


def test_people_are_cut_out_and_their_points_found_as_transformers_does(folder: Path, photo: Pixels) -> None:
    network = open_detector(folder / "pose", "pose")._points  # type: ignore[attr-defined]
    boxes = np.array([[8.0, 10.0, 30.0, 70.0], [20.0, 4.0, 40.0, 50.0]])
    processor = VitPoseImageProcessor()
    inputs = processor(photo.copy(), boxes=[boxes], return_tensors="pt")
    around = [crops.around(box, 192 / 256) for box in boxes]
    ours = normalised(np.stack([crops.cropped(photo, crop, 256, 192) for crop in around]), torch.device("cpu"))
    assert (ours - inputs.pixel_values).abs().mean() < 0.05, "of a deviation of 1; the borders are interpolated"
    with torch.no_grad():
        outputs = network(**inputs)
    (theirs,) = processor.post_process_pose_estimation(outputs, boxes=[boxes], threshold=0.0)
    for heatmaps, crop, other in zip(outputs.heatmaps.double().numpy(), around, theirs, strict=True):
        off = np.abs(crops.peaks(heatmaps, crop) - other["keypoints"].numpy())
        assert np.median(off) < 0.5 * crop[2] / 47, "half a pixel of the heat map"
        assert off.max() < 1.5 * crop[2] / 47


def test_a_photo_without_a_person_is_refused(folder: Path, photo: Pixels) -> None:
    with pytest.raises(BadInput, match=r"^no person was found in the control picture: use a photo that shows one"):
        open_detector(folder / "nobody", "pose").map_of(photo, base())


# -- skeletons


def a_person() -> skeleton.Points:
    """COCO's points of somebody who faces us, in a picture of 512 pixels: the right side is on the left."""
    nose, eyes, ears = (256, 80), [(266, 70), (246, 70)], [(280, 76), (232, 76)]
    arms = [(316, 140), (196, 140), (336, 220), (176, 220), (346, 300), (166, 300)]
    legs = [(286, 300), (226, 300), (290, 390), (222, 390), (294, 480), (218, 480)]
    return np.array([nose, *eyes, *ears, *arms, *legs], np.float64)


@pytest.mark.parametrize(
    ("at", "colour"),
    [
        ((256, 80), (255, 0, 0)),  # nose
        ((256, 140), (255, 85, 0)),  # neck: between the shoulders
        ((196, 140), (255, 170, 0)),  # right shoulder
        ((166, 300), (170, 255, 0)),  # right wrist
        ((346, 300), (0, 255, 85)),  # left wrist
        ((218, 480), (0, 170, 255)),  # right ankle
        ((294, 480), (85, 0, 255)),  # left ankle
        ((246, 70), (170, 0, 255)),  # right eye
        ((280, 76), (255, 0, 85)),  # left ear
        ((226, 140), (153, 0, 0)),  # from the neck to the right shoulder, darker
        ((186, 180), (153, 102, 0)),  # right upper arm
        ((326, 180), (102, 153, 0)),  # left upper arm
        ((256, 110), (0, 0, 153)),  # from the neck to the nose
        ((20, 20), (0, 0, 0)),
    ],
)
def test_points_and_limbs_have_openposes_colours(at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    drawn = skeleton.draw([skeleton.from_coco(a_person())], 512, 512)
    assert tuple(drawn[at[1], at[0]]) == colour


def test_what_is_not_seen_is_not_drawn_nor_a_neck_of_one_shoulder() -> None:
    points = a_person()
    points[5] = np.nan  # the left shoulder
    drawn = skeleton.draw([skeleton.from_coco(points)], 512, 512)
    assert not drawn[140, 316].any()
    assert not drawn[140, 256].any()
    assert not drawn[180, 326].any()
    assert tuple(drawn[140, 196]) == (255, 170, 0)


def test_lines_grow_with_the_picture() -> None:
    wide = skeleton.draw([skeleton.from_coco(2 * a_person())], 1024, 1024)
    half = skeleton.draw([skeleton.from_coco(a_person())], 512, 512)
    across = [int(drawn[row].any(axis=1).sum()) for drawn, row in ((wide, 680), (half, 340))]
    assert across[0] == pytest.approx(2 * across[1], rel=0.2)


# -- where they are


def test_a_detector_is_on_the_device_only_while_it_reads(
    folder: Path, photo: Pixels, device_of_its_own: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector: Any = open_detector(folder / "depth", "depth")
    seen, read = [], detector.read

    def watched(*arguments: Any) -> Pixels:
        seen.append([masters.on_device for masters in detector._masters])
        pixels: Pixels = read(*arguments)
        return pixels

    monkeypatch.setattr(detector, "read", watched)
    device_of_its_own(2 * WORK_BYTES)
    roomy, full = base(), base()
    detector.map_of(photo, roomy)
    device_of_its_own(WORK_BYTES)
    detector.map_of(photo, full)
    assert seen == [[True], [True]]
    assert not any(masters.on_device for masters in detector._masters)
    assert (roomy.made_room, full.made_room) == (False, True)


def test_its_weights_count_unless_they_are_mapped_from_its_file(folder: Path) -> None:
    detector = open_detector(folder / "depth", "depth")
    weights = memory.anonymous_bytes([one.clone() for one in load_file(folder / "depth/model.safetensors").values()])
    assert detector.anonymous_bytes < weights / 2


# -- what is refused


def no_people(copy: Path) -> None:
    config = json.loads((copy / PEOPLE / "config.json").read_text())
    config |= {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}
    (copy / PEOPLE / "config.json").write_text(json.dumps(config))


def change(name: str, alter: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(copy: Path) -> None:
        weights = load_file(copy / name)
        alter(weights)
        save_file(weights, copy / name, {"format": "pt"})

    return spoil


def leave_a_pickle(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()


def metric(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"depth_estimation_type": "metric"}))


MODEL = "model.safetensors"


@pytest.mark.parametrize(
    ("kind", "spoil", "said"),
    [
        ("depth", lambda copy: (copy / "config.json").unlink(), "spoilt is not a detector: config.json is missing"),
        ("depth", lambda copy: (copy / "config.json").write_text("[]"), "spoilt is damaged: its config.json does not"),
        ("depth", lambda copy: (copy / MODEL).write_bytes(b"\0" * 20), "spoilt is incomplete or damaged"),
        ("depth", leave_a_pickle, "spoilt has only a pickle, which is never loaded"),
        ("depth", metric, "spoilt measures depths in metres"),
        ("depth", change(MODEL, lambda weights: weights.pop("head.conv1.weight")), "spoilt is incomplete: it has no h"),
        ("depth", change(MODEL, lambda weights: weights["head.conv1.bias"].fill_(torch.nan)), "are not finite"),
        ("pose", lambda copy: shutil.rmtree(copy / PEOPLE), "people of spoilt is not a detector: config.json is"),
        ("pose", no_people, "people of spoilt does not find people"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(
    folder: Path, tmp_path: Path, kind: str, spoil: Callable[[Path], object], said: str
) -> None:
    shutil.copytree(folder / kind, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(ModelUnreadable, match=said):
        open_detector(tmp_path / "spoilt", kind)


def test_a_detector_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"^pose is a vitpose, not a depth_anything$"):
        open_detector(folder / "pose", "depth")
    with pytest.raises(ModelUnreadable, match=r"^pose cannot detect canny; supported: depth, pose$"):
        open_detector(folder / "pose", "canny")

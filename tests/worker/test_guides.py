"""References and control pictures through the whole pipeline: from an INSERT to a published picture."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

from tests.app import App
from tests.ml import vanilla
from tests.waiting import wait_until
from tests.worker.fleet import Fleet
from tests.worker.pictures import picture, png
from tests.worker.studio import (
    CAN_MORE,
    DEPTH_OF_PHOTO,
    FLUX,
    GUIDES_OF,
    KLEIN,
    POSE,
    POSE_OF_PHOTO,
    REFERENCE,
    REGISTER,
    SD15,
    SDXL,
    UNION,
    Z_IMAGE,
    Studio,
)
from tests.worker.test_routes import disk_with, worker_here
from worker.models import BaseModels


@pytest.fixture(scope="module")
def fleet(studio: Studio) -> Fleet:
    return studio.fleet


@pytest.fixture(scope="module")
def disk(studio: Studio) -> Path:
    return studio.disk


def put(fleet: Fleet, name: str, content: bytes, subject: UUID | str = "_/inputs") -> str:
    """Store an object under a person, or under nobody, and return its key."""
    folder = subject if isinstance(subject, str) else f"{subject}/photos"
    key = f"{fleet.app.owner}/{folder}/{name}"
    fleet.app.s3.put_object(Bucket=fleet.app.uploads, Key=key, Body=content)
    return key


def raw(fleet: Fleet, result: dict[str, Any]) -> np.ndarray[Any, Any]:
    content = fleet.app.read(fleet.app.uploads, result["pictures"][0]["raw"])
    return np.asarray(Image.open(io.BytesIO(content)))


def drawn(fleet: Fleet, **columns: object) -> dict[str, Any]:
    job = fleet.draw(**{"base": SD15, "seed": 7, "width": 96, "height": 64, "steps": 4, **columns})
    result: dict[str, Any] = fleet.completed("generation", job)["result"]
    return result


def failed(fleet: Fleet, **columns: object) -> tuple[str, str]:
    """Return the error code and message of a job that fails at its first attempt."""
    job = fleet.app.wait_for("generation", fleet.draw(**{"base": SD15, "width": 96, "height": 64, **columns}))
    assert (job["status"], job["attempt"]) == ("failed", 1)
    return job["error_code"], job["error"]


def test_a_lora_a_reference_and_a_pose_in_one_job_as_in_plain_diffusers(
    fleet: Fleet, disk: Path, tmp_path: Path
) -> None:
    person, other = fleet.person(), fleet.app.add_subject()
    trained = fleet.completed("training", fleet.app.request("training", subject_id=person, base=SD15, seed=1))["result"]
    face, pose = picture(1), picture(2, (96, 64)).convert("RGBA")
    pose.paste((255, 255, 255, 0), (0, 0, 48, 64))  # the left half is transparent, which is black in a map
    skeleton = picture(2, (96, 64))
    skeleton.paste("black", (0, 0, 48, 64))
    keys = put(fleet, "face.png", png(face), other), put(fleet, "pose.png", png(pose))
    asked = {
        "subject_id": person,
        "model_ids": [trained["model_id"]],
        "prompt": "in a garden",
        "negative_prompt": "blurred",
        "reference_paths": [keys[0]],
        "reference_scale": 0.6,
        "control_path": keys[1],
        "control_kind": "pose",
        "control_scale": 0.9,
        "control_start": 0.25,
    }
    result = drawn(fleet, **asked)
    assert result["guides"] == [
        {
            **{"capability": "reference", "guide": REFERENCE, "detector": None, "paths": [keys[0]]},
            **{"scale": 0.6, "start": 0, "end": 1, "used": True, "padded": False},
        },
        {
            **{"capability": "control:pose", "guide": POSE, "detector": None, "paths": [keys[1]]},
            **{"scale": 0.9, "start": 0.25, "end": 1, "used": True, "padded": False},
        },
    ]
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(fleet.app.read(fleet.app.models, trained["lora"]))
    theirs = vanilla.draw(
        disk / SD15,
        f"{trained['trigger_word']}, in a garden",
        negative_prompt="blurred",
        seed=7,
        loras=[(lora, 1)],
        adapter=(disk / REFERENCE, 0.6),
        control=vanilla.Control(disk / POSE, ControlNetModel, StableDiffusionControlNetPipeline),
        image=skeleton,
        ip_adapter_image=face,
        controlnet_conditioning_scale=0.9,
        control_guidance_start=0.25,
        width=96,
        height=64,
        num_inference_steps=4,
        guidance_scale=4,
    )
    assert np.abs(raw(fleet, result).astype(int) - theirs).max() == 0
    for without in (["reference_paths"], ["control_path", "control_kind"]):
        fewer = drawn(fleet, **{**asked, **dict.fromkeys(without)})
        assert (raw(fleet, fewer) != theirs).any(), without


@pytest.mark.parametrize("base", [SDXL, FLUX])
def test_a_lora_a_reference_and_a_pose_in_one_job_of_other_families(fleet: Fleet, base: str) -> None:
    person, other = fleet.person(), fleet.app.add_subject()
    trained = fleet.completed("training", fleet.train(subject_id=person, base=base))
    asked = {
        **{"base": base, "subject_id": person, "model_ids": [trained["result"]["model_id"]], "steps": 2},
        "reference_paths": [put(fleet, "face.png", png(picture(1)), other)],
        **{"control_path": put(fleet, "pose.png", png(picture(2, (96, 64)))), "control_kind": "pose"},
    }
    whole = drawn(fleet, **asked)
    assert [(guide["guide"], guide["used"]) for guide in whole["guides"]] == [(slug, True) for slug in GUIDES_OF[base]]
    for without in ({"lora_scales": [0]}, {"reference_paths": None}, {"control_path": None, "control_kind": None}):
        assert (raw(fleet, drawn(fleet, **{**asked, **without})) != raw(fleet, whole)).any(), without


def test_z_image_is_controlled_by_the_file_as_it_is_published(fleet: Fleet) -> None:
    pose = {"control_path": put(fleet, "pose.png", png(picture(2, (96, 64)))), "control_kind": "pose"}
    posed = drawn(fleet, base=Z_IMAGE, steps=2, **pose)
    assert [(guide["guide"], guide["used"]) for guide in posed["guides"]] == [(UNION, True)]
    assert (raw(fleet, posed) != raw(fleet, drawn(fleet, base=Z_IMAGE, steps=2))).any()


def test_scale_0_is_as_without_guides_and_needs_neither_guide_nor_pictures(fleet: Fleet) -> None:
    person = fleet.app.add_subject()
    nowhere = f"{fleet.app.owner}/{person}/photos/never-uploaded.png"
    off = drawn(
        fleet,
        reference_paths=[nowhere],
        reference_scale=0,
        control_path=nowhere,
        control_kind="pose",
        control_scale=0,
    )
    assert [guide["used"] for guide in off["guides"]] == [False, False]
    plain = drawn(fleet)
    assert plain["guides"] == []
    assert (raw(fleet, off) == raw(fleet, plain)).all()


def test_klein_reads_references_in_its_context_without_a_guide(fleet: Fleet, disk: Path) -> None:
    person = fleet.app.add_subject()
    faces = [picture(1), picture(3, (80, 64))]
    keys = [put(fleet, f"{number}.png", png(face), person) for number, face in enumerate(faces)]
    result = drawn(fleet, base=KLEIN, reference_paths=keys, prompt="a garden", guidance=1)
    assert [(guide["capability"], guide["guide"], guide["used"]) for guide in result["guides"]] == [
        ("reference", None, True)
    ]
    theirs = vanilla.draw(
        disk / KLEIN, "a garden", seed=7, image=faces, width=96, height=64, num_inference_steps=4, guidance_scale=1.0
    )
    assert np.abs(raw(fleet, result).astype(int) - theirs).max() == 0
    code, error = failed(fleet, base=KLEIN, reference_paths=keys, reference_scale=0.5)
    assert code == "invalid_input"
    assert "0.5" in error


def test_a_pose_of_another_shape_gets_a_black_border_and_the_result_says_so(fleet: Fleet) -> None:
    tall = put(fleet, "tall.png", png(picture(2, (64, 160))))
    (said,) = drawn(fleet, control_path=tall, control_kind="pose")["guides"]
    assert said["padded"]


def test_the_pose_and_the_depth_of_a_photo_are_found_and_used_as_their_maps_would_be(fleet: Fleet, disk: Path) -> None:
    photo = picture(1, (96, 64))
    key = put(fleet, "photo.png", png(photo), fleet.app.add_subject())
    for base, kind, detector in ((SD15, "pose", POSE_OF_PHOTO), (SDXL, "depth", DEPTH_OF_PHOTO)):
        asked = {"base": base, "steps": 8, "control_kind": kind, "control_scale": 2}
        found = drawn(fleet, **asked, control_path=key, control_from="photo")
        assert [(guide["detector"], guide["used"]) for guide in found["guides"]] == [(detector, True)]
        made = detected(disk / detector, kind, photo)
        given = drawn(fleet, **asked, control_path=put(fleet, f"{kind}.png", png(made)), control_from="map")
        assert given["guides"][0]["detector"] is None
        np.testing.assert_array_equal(raw(fleet, found), raw(fleet, given))
        assert (raw(fleet, found) != raw(fleet, drawn(fleet, **asked, control_path=key))).any(), "read as a map"


def detected(folder: Path, kind: str, photo: Image.Image) -> Image.Image:
    """The map of a photo, made here."""
    import torch

    from worker.ml.detectors.registry import open_detector

    base: Any = SimpleNamespace(device=torch.device("cpu"))
    return Image.fromarray(open_detector(folder, kind).map_of(np.asarray(photo), base))


NO_PICTURE = [
    ("notes.txt", b"not a picture", "notes.txt is"),
    ("cut.png", png(picture(1))[:200], "cut.png is damaged"),
    ("dot.png", png(picture(1, (1, 1))), "1 x 1"),
]


def test_a_reference_that_cannot_be_used_fails_the_job_and_is_named(fleet: Fleet) -> None:
    for name, content, expected in NO_PICTURE:
        code, error = failed(fleet, reference_paths=[put(fleet, name, content, fleet.app.add_subject())])
        assert code == "invalid_input", name
        assert expected in error


def test_a_missing_and_a_too_large_picture_are_named(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    person = fleet.app.add_subject()
    code, error = failed(fleet, reference_paths=[f"{fleet.app.owner}/{person}/photos/gone.png"])
    assert (code, error) == (
        "input_missing",
        "reference gone.png is not in storage: upload it, then insert another job",
    )
    large = put(fleet, "film.mp4", b"\0" * 201_000_000)
    code, error = failed(fleet, control_path=large, control_kind="pose")
    assert (code, error) == ("invalid_input", "control picture film.mp4 is too large (201 MB, at most 200)")


async def test_a_pod_without_the_guide_leaves_the_job_to_one_that_has_it(
    fleet: Fleet, app: App, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod claims jobs of its routes alone (`test_routes.py`): only the equipped one's names the guides."""
    key = put(fleet, "face.png", png(picture(1)), fleet.app.add_subject())
    job = fleet.draw(base=SD15, reference_paths=[key])
    route = fleet.app.one("select entrypoint from worker.pgqueuer where dedupe_key = %s", f"generation:{job}")
    assert route == f"generation/{SD15}+{REFERENCE}"
    assert {route, f"generation/{SD15}+{POSE}+{REFERENCE}"} <= set(fleet.app.one("select routes from worker.pods"))
    fleet.completed("generation", job)

    async def without_a_bucket(_: BaseModels) -> bool:
        return False

    monkeypatch.setattr(BaseModels, "can_fetch", without_a_bucket)
    app.run(REGISTER)
    app.run(CAN_MORE, ["reference", "control:pose"], "sd15")
    disk = disk_with(tiny_models, tmp_path / "bare")
    (disk / SD15).symlink_to(tiny_models / SD15)
    bare = worker_here(app.url, disk)
    async with bare._database:
        await bare._registration.gpu_is_ready(None)
    assert f"generation/{SD15}" in bare._routes.slot_of
    assert not [name for name in bare._routes.slot_of if "+" in name]


def test_a_job_whose_guide_no_pod_has_says_so_and_how_to_get_it(fleet: Fleet) -> None:
    depth = put(fleet, "depth.png", png(picture(1)))
    job = fleet.draw(base=SD15, control_path=depth, control_kind="depth")
    missing = "controlnet-depth-sd15"
    why = f"no pod has {missing}: worker models pull --as {missing}, then worker models push {missing}"
    phase = f"waiting: no live pod can take this: {why}"
    wait_until(lambda: fleet.app.job("generation", job)["phase"] == phase, "the job to say why it waits")

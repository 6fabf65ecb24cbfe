"""The demo's photos: of one person, different in everything else, and saved as a phone saves them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from worker.demo.drawing.person import LIGHTS, Beard, Clothes, Glasses, HairStyle, Setting, close_up
from worker.demo.drawing.portrait import Person, PhotoTaken, Scene, draw, scenes, write_photos

SMALL = (120, 160)


def pixels(person: Person, scene: Scene, size: tuple[int, int] = SMALL) -> np.ndarray:
    return np.asarray(draw(person, scene, size), dtype=np.float64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[PhotoTaken]:
    return write_photos(Person.example(), tmp_path_factory.mktemp("photos"), count=9, seed=1)


def test_photos_are_large_srgb_jpegs_with_the_camera_in_exif(photos: list[PhotoTaken]) -> None:
    for photo in photos:
        with Image.open(photo.path) as picture:
            assert picture.format == "JPEG"
            assert sorted(picture.size) == [3024, 4032]
            assert picture.getexif()[0x0110]
            profile = ImageCms.getOpenProfile(io.BytesIO(picture.info["icc_profile"]))
            assert ImageCms.getProfileDescription(profile).startswith("sRGB")


def test_a_phone_held_sideways_is_recorded_in_exif_alone(photos: list[PhotoTaken]) -> None:
    stored = {}
    for photo, scene in zip(photos, scenes(9, seed=1), strict=True):
        with Image.open(photo.path) as picture:
            orientation = picture.getexif()[0x0112]
            stored[orientation] = picture.size
            picture.draft("RGB", (480, 640))  # decodes an eighth of each side
            upright = np.asarray(ImageOps.exif_transpose(picture).resize(SMALL), dtype=np.float64)
        assert np.abs(upright - pixels(Person.example(), close_up(Person.example(), scene))).mean() < 6
    assert stored == {1: (3024, 4032), 3: (3024, 4032), 6: (4032, 3024), 8: (4032, 3024)}


def test_the_same_arguments_give_the_same_files(photos: list[PhotoTaken], tmp_path: Path) -> None:
    again = write_photos(Person.example(), tmp_path, count=1, seed=1)
    assert [photo.caption for photo in again] == [photo.caption for photo in photos[:1]]
    for first, second in zip(photos, again, strict=False):
        assert first.path.read_bytes() == second.path.read_bytes()


def test_captions_name_clothes_and_place_but_not_the_person(photos: list[PhotoTaken]) -> None:
    for photo, scene in zip(photos, scenes(9, seed=1), strict=True):
        assert f"{scene.colour} {scene.clothes}" in photo.caption
        assert scene.light in photo.caption
        assert not any(word in photo.caption for word in ("hair", "glasses", "curl", "freckle", "skin"))


def test_twelve_scenes_differ_in_clothes_pose_background_and_light() -> None:
    twelve = scenes(12, seed=0)
    assert len({scene.colour for scene in twelve}) == 12
    assert {scene.clothes for scene in twelve} == set(get_args(Clothes))
    assert {scene.setting for scene in twelve} == set(get_args(Setting))
    assert len({scene.turn for scene in twelve}) == 12
    assert len({scene.light for scene in twelve}) >= 4
    assert scenes(12, seed=0) == twelve
    assert scenes(12, seed=1) != twelve


def test_every_setting_has_a_light() -> None:
    assert set(LIGHTS) == set(get_args(Setting))


def test_two_people_look_different_and_one_person_alike_in_the_same_scene() -> None:
    head = np.s_[20:110, 20:100]
    for scene in scenes(3, seed=2):
        example = pixels(Person.example(), scene)
        moved_a_little = pixels(Person.example(), replace(scene, turn=scene.turn + 0.1))
        to_other = np.abs(example - pixels(Person.other(), scene))[head].mean()
        assert to_other > 25
        assert np.abs(example - moved_a_little)[head].mean() < to_other / 2


@pytest.mark.parametrize(
    "trait",
    [{"hair_style": style} for style in get_args(HairStyle)]
    + [{"glasses": glasses} for glasses in get_args(Glasses)]
    + [{"beard": beard} for beard in get_args(Beard)]
    + [{"freckles": True, "skin": (240, 200, 172)}, {"earrings": True}, {"lashes": True}],
    ids=str,
)
def test_every_trait_shows(trait: dict[str, object]) -> None:
    plain = Person(skin=(222, 172, 136), hair_style="bald", hair=(120, 76, 44), eyes=(92, 60, 38))
    person = replace(plain, **trait)  # type: ignore[arg-type]
    changed = np.abs(pixels(person, Scene()) - pixels(plain, Scene())).max()
    assert changed > 25 or person == plain


@pytest.mark.parametrize("clothes", get_args(Clothes))
def test_clothes_have_the_colour_of_the_scene(clothes: Clothes) -> None:
    red = pixels(Person.example(), Scene(clothes=clothes, colour="red"))
    green = pixels(Person.example(), Scene(clothes=clothes, colour="green"))
    shoulder = np.s_[140:155, 25:45]
    assert (red - green)[shoulder][..., 0].mean() > 30


@pytest.mark.parametrize("setting", get_args(Setting))
def test_each_setting_is_a_background_of_its_own(setting: Setting) -> None:
    corner = np.s_[:40, :30]
    here = pixels(Person.example(), Scene(setting=setting))
    others = [pixels(Person.example(), Scene(setting=other)) for other in get_args(Setting)[:3] if other != setting]
    assert all(np.abs(here - other)[corner].mean() > 8 for other in others)


def test_random_people_differ_and_are_reproducible() -> None:
    people = [Person.random(seed) for seed in range(8)]
    assert people == [Person.random(seed) for seed in range(8)]
    assert len(set(people)) == 8


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (160, 96), (1, 1)])
def test_any_shape_of_picture_can_be_drawn(size: tuple[int, int]) -> None:
    assert draw(Person.example(), Scene(), size).size == size

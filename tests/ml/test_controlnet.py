"""Pictures with a control are those of plain diffusers, and what the worker refuses."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.ml.controls import REQUEST, VARIANTS, Network, a_map, drawn, furthest, opened, tiny_network, write_lora
from tests.ml.families import only_flux, only_sd15
from tests.ml.runs import pictures
from tests.ml.test_not_finite import of_the_end
from worker.demo.drawing import portrait
from worker.ml import models
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, Picture, Resolved, generate
from worker.ml.errors import BadInput, ModelUnreadable, NotFinite
from worker.ml.guides import canny
from worker.ml.guides.maps import fit
from worker.ml.guides.registry import open_guide
from worker.ml.guides.tiny.controlnet import build_tiny
from worker.ml.models import Base
from worker.ml.protocol import GuideUse, Pixels

every_variant = pytest.mark.parametrize(
    ("family", "variant"), [(name.split()[0], name) for name in VARIANTS], indirect=True
)
each_shape = pytest.mark.parametrize(("family", "variant"), [("sd15", "sd15"), ("flux", "flux union")], indirect=True)
"""A network of a U-Net and one of a transformer, for what is not the networks' own."""
each_denoiser = pytest.mark.parametrize(
    ("family", "variant"),
    [("sd15", "sd15"), ("sdxl", "sdxl union"), ("flux", "flux union"), ("z-image", "z-image 2.1")],
    indirect=True,
)


@pytest.fixture(scope="session")
def variant(request: pytest.FixtureRequest) -> str:
    name: str = getattr(request, "param", "")
    return name


@pytest.fixture(scope="session")
def network(base: Base, variant: str, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return tiny_network(base, variant or base.family.name, tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="session")
def pose() -> Pixels:
    """A map of coloured lines on black, as tall as the pictures."""
    return a_map(96, 64)


# -- the pictures of plain diffusers


@every_variant
def test_a_controlled_picture_equals_that_of_plain_diffusers(network: Network, pose: Pixels) -> None:
    controlled = drawn(network.base, network.guided(pose))
    theirs = network.plain(Image.fromarray(pose), controlnet_conditioning_scale=1.0)
    assert furthest(controlled, theirs) == 0
    assert furthest(controlled, drawn(network.base, REQUEST)) >= 5


@each_denoiser
def test_scale_and_window_are_those_of_plain_diffusers(network: Network, pose: Pixels) -> None:
    start, end = 0.25, 0.75
    ours = drawn(network.base, network.guided(pose, 0.5, start=start, end=end))
    theirs = network.plain(
        Image.fromarray(pose),
        controlnet_conditioning_scale=0.5,
        control_guidance_start=start,
        control_guidance_end=end,
    )
    assert furthest(ours, theirs) == 0
    assert furthest(ours, drawn(network.base, network.guided(pose, 0.5))) > 0


@each_denoiser
def test_in_bfloat16_controlled_pictures_are_still_equal(network: Network) -> None:
    """At the smallest size of a control picture, because bfloat16 is slow on a CPU."""
    half = models.load(network.base.folder, "cpu", torch.bfloat16)
    guide = open_guide(network.folder, half, "control:pose")
    pose, settings = a_map(64, 64), {"width": 64, "height": 64, "num_inference_steps": 2}
    use = GuideUse(guide, (pose,), 0.7, "pose")
    ours = drawn(half, replace(REQUEST, width=64, height=64, steps=2, guides=(use,)))
    theirs = network.plain(Image.fromarray(pose), base=half, controlnet_conditioning_scale=0.7, **settings)
    assert furthest(ours, theirs) == 0


@each_shape
def test_the_next_image_is_the_next_seed_with_its_own_control(network: Network, pose: Pixels) -> None:
    ours = pictures(generate(network.base, replace(network.guided(pose), num_images=2)))
    theirs = [network.plain(Image.fromarray(pose), seed=seed, controlnet_conditioning_scale=1.0) for seed in (11, 12)]
    assert [furthest(*pair) for pair in zip(ours, theirs, strict=True)] == [0, 0]


@pytest.mark.parametrize(("family", "variant"), [("sdxl", "sdxl union"), ("flux", "flux union")], indirect=True)
def test_a_network_for_several_kinds_is_told_which(network: Network, pose: Pixels) -> None:
    edges = np.where(pose.any(axis=2, keepdims=True), 255, 0).astype(np.uint8).repeat(3, axis=2)
    of_kind = {kind: drawn(network.base, network.guided(edges, kind=kind)) for kind in ("canny", "depth", "pose")}
    for kind in ("canny", "depth"):
        theirs = network.plain(Image.fromarray(edges), kind, controlnet_conditioning_scale=1.0)
        assert furthest(of_kind[kind], theirs) == 0, kind
        assert furthest(of_kind[kind], of_kind["pose"]) > 0, kind


@pytest.mark.parametrize(
    ("family", "variant"),
    [("sd15", "sd15"), ("flux", "flux union"), ("z-image", "z-image 2.1")],  # the last one runs the base's own layers
    indirect=True,
)
def test_a_control_combines_with_a_lora(network: Network, pose: Pixels, tmp_path: Path) -> None:
    base, path = network.base, tmp_path / "lora.safetensors"
    write_lora(base, path, 0.1)
    both = replace(network.guided(pose), loras=(LoraUse(path),))
    ours = drawn(base, both)
    theirs = network.plain(Image.fromarray(pose), loras=[(path, 1)], controlnet_conditioning_scale=1.0)
    assert furthest(ours, theirs) == 0
    assert min(furthest(ours, drawn(base, one)) for one in (network.guided(pose), replace(both, guides=()))) > 0


def test_a_flux_base_without_guidance_embedding_uses_the_wanted_prompts_control_against_the_negative_one(
    unguided: Base, pose: Pixels, tmp_path: Path
) -> None:
    network = tiny_network(unguided, "flux", tmp_path)
    ours = drawn(unguided, network.guided(pose, 0.5))
    theirs = network.plain(Image.fromarray(pose), negative_prompt="a red wall", controlnet_conditioning_scale=0.5)
    assert furthest(ours, theirs) <= 1  # diffusers makes FLUX's two predictions one after the other


def test_flux_reads_a_sample_of_the_control_picture_not_the_mode(
    tiny_models: Path, pose: Pixels, tmp_path: Path
) -> None:
    """The published autoencoder has a variance; the tiny one hardly any."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_models / "tiny-flux", folder)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    vae.encoder.conv_out.bias.data[16:] = 0.0
    vae.save_pretrained(folder / "vae")
    base = models.load(folder, "cpu")
    network = tiny_network(base, "flux", tmp_path)
    ours = pictures(generate(base, replace(network.guided(pose), num_images=2)))
    theirs = [network.plain(Image.fromarray(pose), seed=seed, controlnet_conditioning_scale=1.0) for seed in (11, 12)]
    assert [furthest(*pair) for pair in zip(ours, theirs, strict=True)] == [0, 0]


# -- the base stays as it was


@each_denoiser
def test_at_scale_0_nothing_is_different_and_after_a_control_the_base_draws_as_before(
    network: Network, pose: Pixels
) -> None:
    before = drawn(network.base, REQUEST)
    np.testing.assert_array_equal(drawn(network.base, network.guided(pose, 0.0)), before)
    drawn(network.base, network.guided(pose))
    np.testing.assert_array_equal(drawn(network.base, REQUEST), before)


@each_shape
def test_a_seed_keeps_its_noise_with_a_control(network: Network, pose: Pixels) -> None:
    """A control that hardly counts leaves the picture nearly as it is, at the same seed alone."""
    without = drawn(network.base, REQUEST)
    assert furthest(drawn(network.base, network.guided(pose, 1e-7)), without) <= 1
    assert furthest(drawn(network.base, replace(network.guided(pose, 1e-7), seed=12)), without) > 20


def on_device(network: Network) -> bool:
    on: bool = network.guide._masters.on_device  # type: ignore[attr-defined]
    return on


@each_denoiser
def test_a_control_is_on_the_device_while_it_is_used_also_where_parts_take_turns(
    network: Network, pose: Pixels, device_of_its_own: Callable[[int], None]
) -> None:
    alone = drawn(network.base, network.guided(pose))
    device_of_its_own(0)
    base = models.load(network.base.folder, "cpu", forms=("plain",))
    seen = []
    for event in generate(base, network.guided(pose)):
        if isinstance(event, Step):
            seen.append((on_device(network), base._parts[base.family.denoiser].on_device))
        elif isinstance(event, Picture):
            np.testing.assert_array_equal(event.pixels, alone)
            assert not on_device(network), "it makes room before decoding"
    assert set(seen) == {(True, True)}


@only_sd15
@pytest.mark.parametrize("steps", [1, 3])
def test_a_stop_between_steps_takes_the_control_off_the_device(
    network: Network, pose: Pixels, device_of_its_own: Callable[[int], None], steps: int
) -> None:
    before = drawn(network.base, REQUEST)
    device_of_its_own(2**40)
    drawing = generate(network.base, network.guided(pose))
    for event in drawing:
        steps -= isinstance(event, Step)
        if steps == 0:
            assert on_device(network)
            break
    drawing.close()
    assert not on_device(network)
    np.testing.assert_array_equal(drawn(network.base, REQUEST), before)


@only_sd15
def test_what_a_control_needs_is_its_weights_and_what_it_adds(network: Network, pose: Pixels) -> None:
    (use,) = network.guided(pose).guides
    weights = sum(part.numel() * 4 for part in load_file(network.folder / WEIGHTS).values())
    small, large = (use.guide.working_bytes(network.base, use, grid) for grid in ((8, 8), (16, 16)))
    assert weights < small
    assert large - weights == pytest.approx(4 * (small - weights))


# -- control pictures


def test_a_photo_becomes_edges_and_an_edge_map_stays_as_it_is() -> None:
    photo = np.asarray(portrait.draw(portrait.Person.example(), portrait.scenes(1, 0)[0], (96, 128)))
    found = canny.edges(photo)
    expected = cv2.Canny(photo, 100, 200)
    assert all(np.array_equal(found[..., channel], expected) for channel in range(3))
    assert 0.01 < found.astype(bool).mean() < 0.5
    assert canny.is_edge_map(found)
    assert not canny.is_edge_map(photo)
    assert not canny.is_edge_map(255 - found), "black lines on white are a drawing, whose edges are found"
    jpeg = io.BytesIO()
    Image.fromarray(found).save(jpeg, "jpeg", quality=95)
    assert canny.is_edge_map(np.asarray(Image.open(jpeg).convert("RGB")))


@each_shape
def test_canny_reads_the_edges_of_a_photo_or_an_edge_map(network: Network) -> None:
    photo = np.asarray(portrait.draw(portrait.Person.example(), portrait.scenes(1, 0)[0], (64, 96)))
    edges = canny.edges(photo)
    of_photo = drawn(network.base, network.guided(photo, kind="canny"))
    np.testing.assert_array_equal(of_photo, drawn(network.base, network.guided(edges, kind="canny")))
    assert furthest(of_photo, drawn(network.base, network.guided(photo, kind="depth"))) > 0
    theirs = network.plain(Image.fromarray(edges), "canny", controlnet_conditioning_scale=1.0)
    assert furthest(of_photo, theirs) == 0


@each_shape
def test_a_map_of_the_same_shape_is_resized_as_plain_diffusers_does(network: Network) -> None:
    large = a_map(192, 128)
    ours = drawn(network.base, network.guided(large))
    assert furthest(ours, network.plain(Image.fromarray(large), controlnet_conditioning_scale=1.0)) == 0


@pytest.mark.parametrize(
    ("height", "width", "inside"),
    [(96, 96, (slice(16, 80), slice(0, 64))), (200, 50, (slice(0, 96), slice(20, 44))), (1, 1, (slice(16, 80),))],
)
def test_a_map_of_another_shape_keeps_its_own_on_black(height: int, width: int, inside: tuple[slice, ...]) -> None:
    fitted = fit(np.full((height, width, 3), 200, np.uint8), 64, 96)
    assert fitted.shape == (96, 64, 3)
    expected = np.zeros_like(fitted)
    expected[inside] = 200
    np.testing.assert_array_equal(fitted, expected)


def test_the_border_around_a_photo_is_not_an_edge() -> None:
    plain = np.full((50, 50, 3), 200, np.uint8)
    assert not fit(plain, 64, 96, canny.edges).any()


@only_sd15
def test_what_was_done_to_a_map_of_another_shape_is_said(network: Network) -> None:
    def padded(picture: Pixels, **changes: Any) -> tuple[str, ...]:
        event = next(generate(network.base, replace(network.guided(picture), **changes)))
        assert isinstance(event, Resolved)
        return event.padded_controls

    assert padded(a_map(96, 64)) == padded(a_map(960, 640)) == ()
    assert padded(a_map(99, 66), width=66, height=99) == (), "what is drawn is rounded to what the base can"
    assert padded(a_map(96, 96)) == padded(a_map(64, 96)) == ("pose",)


# -- what is refused


@only_sd15
@pytest.mark.parametrize("count", [0, 2])
def test_a_control_needs_one_picture(network: Network, pose: Pixels, count: int) -> None:
    use = GuideUse(network.guide, (pose,) * count, 1.0, "pose")
    with pytest.raises(BadInput, match=f"needs one picture, not {count}"):
        list(generate(network.base, replace(REQUEST, guides=(use,))))


@only_sd15
@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63)])
def test_a_picture_too_small_to_show_anything_is_refused(network: Network, size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(BadInput, match=f"the control picture is {width} x {height} pixels: each side must be at least"):
        list(generate(network.base, network.guided(np.zeros((*size, 3), np.uint8))))


@only_sd15
def test_a_scale_that_is_not_finite_is_refused(network: Network, pose: Pixels) -> None:
    with pytest.raises(BadInput, match="scales of LoRAs and guides must be finite"):
        list(generate(network.base, network.guided(pose, float("inf"))))


@pytest.mark.parametrize(("family", "variant"), [("sdxl", "sdxl union"), ("flux", "flux union")], indirect=True)
def test_a_kind_that_a_network_lacks_is_refused_by_name(network: Network, pose: Pixels, tmp_path: Path) -> None:
    said = "controlnet-.*-union has no control of kind scribble: it has canny, depth, pose"
    with pytest.raises(ModelUnreadable, match=said):
        opened(network.folder, network.base, "scribble")
    with pytest.raises(BadInput, match=said):
        list(generate(network.base, network.guided(pose, kind="scribble")))
    kinds = {"num_control_type": 2, "num_mode": 2}
    build_tiny(tmp_path / "few", network.base, union=True, **kinds)
    with pytest.raises(ModelUnreadable, match="few has no control of kind"):
        opened(tmp_path / "few", network.base, "canny" if network.base.family.name == "sdxl" else "pose")


@pytest.mark.parametrize(
    ("family", "variant", "other", "said"),
    [
        ("sd15", "sd15", "sdxl", "does not fit tiny-sdxl .sdxl.: its layers_per_block is 1"),
        ("sdxl", "sdxl", "sd15", "does not fit tiny-sd15 .sd15.: its .* is .*, that of the base is"),
        ("flux", "flux", "sdxl", "is a FluxControlNetModel, which does not fit tiny-sdxl .sdxl.$"),
        ("sdxl", "sdxl union", "flux", "is a ControlNetUnionModel, which does not fit tiny-flux .flux.$"),
        ("sd15", "sd15", "klein", "is a ControlNetModel, which does not fit tiny-klein .klein.$"),
    ],
    indirect=["family", "variant"],
)
def test_a_network_of_another_family_is_refused_with_what_differs(
    network: Network, tiny_models: Path, other: str, said: str
) -> None:
    base = models.load(tiny_models / f"tiny-{other}", "cpu")
    with pytest.raises(ModelUnreadable, match=said):
        opened(network.folder, base)


WEIGHTS = "diffusion_pytorch_model.safetensors"


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def leave_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def leave_a_pickle_beside_other_weights(folder: Path) -> None:
    save_file({"weights": torch.ones(1)}, folder / "other.safetensors")
    leave_a_pickle(folder)


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return spoil


def change_config(**entries: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **entries}))

    return spoil


@only_sd15
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "is an incomplete or damaged ControlNet"),
        (leave_a_pickle, "has only a pickle, which is never loaded"),
        (leave_a_pickle_beside_other_weights, "is an incomplete or damaged ControlNet"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is an incomplete or damaged ControlNet"),
        (
            change_weights(lambda weights: weights["conv_in.weight"].fill_(torch.nan)),
            "holds weights that are not finite",
        ),
        (change_weights(lambda weights: weights.pop("conv_in.bias")), "1 missing weights, such as conv_in.bias"),
        (change_weights(lambda weights: weights.update(more=torch.ones(1))), "1 unexpected weights, such as more"),
        (
            change_weights(lambda weights: weights.update({"conv_in.bias": torch.ones(7)})),
            "is an incomplete or damaged ControlNet",
        ),
        (lambda folder: (folder / "config.json").unlink(), "is not a ControlNet: config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("[]"), "its config.json does not name a class"),
        (
            change_config(_class_name="SD3ControlNetModel"),
            "is a SD3ControlNetModel, which is unsupported; supported: C",
        ),
        (change_config(_class_name=["a"]), "which is unsupported"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(
    network: Network, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(network.folder, folder)
    spoil(folder)
    with pytest.raises(ModelUnreadable, match=rf"spoilt.* {said}"):
        opened(folder, network.base)


@pytest.mark.parametrize(("family", "variant"), [("sdxl", "sdxl union")], indirect=True)
def test_the_published_union_calls_itself_by_the_class_of_the_others(network: Network, tmp_path: Path) -> None:
    shutil.copytree(network.folder, tmp_path / "union")
    change_config(_class_name="ControlNetModel")(tmp_path / "union")
    assert type(opened(tmp_path / "union", network.base)) is type(network.guide)


# -- numbers that are not finite


@each_shape
def test_a_network_whose_numbers_overflow_is_named(network: Network, pose: Pixels, tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    shutil.copytree(network.folder, folder)
    change_weights(lambda weights: [one.mul_(1e30) for one in weights.values()])(folder)
    use = GuideUse(opened(folder, network.base), (pose,), 1.0, "pose")
    before = drawn(network.base, REQUEST)
    with pytest.raises(NotFinite, match=r"^huge gives numbers that are not finite: install this guide again$"):
        list(generate(network.base, replace(REQUEST, guides=(use,))))
    np.testing.assert_array_equal(drawn(network.base, REQUEST), before)


@only_flux
@pytest.mark.parametrize("factor", [1e20, 1e30])
def test_a_control_is_not_blamed_for_the_latents_that_a_lora_made(
    network: Network, pose: Pixels, tmp_path: Path, factor: float
) -> None:
    """From the second step on, the network reads what no network could."""
    huge = LoraUse(of_the_end(network.base, tmp_path / "huge.safetensors", factor))
    with pytest.raises(BadInput, match=r"^huge.safetensors makes tiny-flux give numbers that are not finite"):
        list(generate(network.base, replace(network.guided(pose), loras=(huge,))))


@only_flux
def test_an_autoencoder_that_gives_no_numbers_for_a_control_is_named(network: Network, pose: Pixels) -> None:
    parts = copy.deepcopy(network.base.parts)
    for weights in parts.vae.parameters():
        weights.data.fill_(torch.nan)
    base = Base(network.base.folder, network.base.family, parts, network.base.device, network.base.dtype)
    with pytest.raises(NotFinite, match="for a control picture: some weights of its vae are not finite"):
        list(generate(base, network.guided(pose)))

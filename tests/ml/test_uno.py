"""UNO on a base of a few MB: references are read beside a LoRA, the plan counts them, and what cannot be used is
refused. That the numbers are the original's: `test_uno_parity.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ml.families import only_flux
from tests.ml.references import reference
from tests.ml.runs import pictures
from worker.ml import models
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.families.working_memory import autoencoder_bytes
from worker.ml.guides import uno
from worker.ml.guides.registry import LoadedGuide, open_guide
from worker.ml.guides.tiny.uno import FILE, build_tiny
from worker.ml.memory import GIB, Plan
from worker.ml.models import Base
from worker.ml.protocol import GuideUse, Pixels
from worker.ml.train.train_lora import TrainedLora

pytestmark = only_flux
REQUEST = PictureRequest("a photo", negative_prompt=None, width=96, height=64, steps=3, guidance=4.0, seed=5)
ONE = (reference(120, 150),)
TWO = (reference(120, 150), reference(64, 200, seed=1))


@pytest.fixture(autouse=True)
def _read_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """References of the published sizes are slow to encode without a GPU."""
    monkeypatch.setattr(uno, "ONLY_PX", 96)
    monkeypatch.setattr(uno, "OF_SEVERAL_PX", 64)


@pytest.fixture(scope="module")
def folder(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uno")
    build_tiny(folder, base)
    return folder


@pytest.fixture(scope="module")
def guide(base: Base, folder: Path) -> LoadedGuide:
    return open_guide(folder, base, "reference")


def guided(guide: LoadedGuide, references: tuple[Pixels, ...] = ONE, **use: Any) -> PictureRequest:
    return replace(REQUEST, guides=(GuideUse(guide, references, **use),))


def test_each_reference_changes_the_picture(base: Base, guide: LoadedGuide) -> None:
    others = (reference(120, 150, seed=7), TWO[1])
    drawn = [pictures(generate(base, guided(guide, each)))[0] for each in (ONE, TWO, TWO[::-1], others)]
    drawn += pictures(generate(base, REQUEST))
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)


def test_a_persons_lora_goes_with_it(base: Base, guide: LoadedGuide, trained: TrainedLora) -> None:
    """Both change the picture, and the base is afterwards as it was."""
    without = pictures(generate(base, REQUEST))
    lora = (LoraUse(trained.path),)
    requests = guided(guide), replace(REQUEST, loras=lora), replace(guided(guide), loras=lora)
    drawn = [pictures(generate(base, request))[0] for request in requests]
    assert len({picture.tobytes() for picture in (*drawn, *without)}) == 4
    np.testing.assert_array_equal(pictures(generate(base, REQUEST)), without)


def test_scale_0_is_bit_equal_to_none(base: Base, guide: LoadedGuide) -> None:
    np.testing.assert_array_equal(*(pictures(generate(base, r)) for r in (guided(guide, scale=0.0), REQUEST)))


def test_a_seed_means_one_picture_whatever_was_drawn_before(base: Base, guide: LoadedGuide) -> None:
    """The original samples its autoencoder with the random generator of the process."""
    first = pictures(generate(base, guided(guide)))
    torch.randn(5)
    np.testing.assert_array_equal(pictures(generate(base, guided(guide))), first)


def test_a_stopped_drawing_leaves_the_base_as_it_was(base: Base, guide: LoadedGuide) -> None:
    without = pictures(generate(base, REQUEST))
    drawing = generate(base, guided(guide))
    assert next(event for event in drawing if isinstance(event, Step))
    drawing.close()
    np.testing.assert_array_equal(pictures(generate(base, REQUEST)), without)
    assert guide._encoded._last is None  # type: ignore[attr-defined]


def test_references_are_encoded_once_a_request(base: Base, guide: LoadedGuide) -> None:
    seen: list[int] = []
    hook = base.parts.vae.encoder.register_forward_hook(lambda *_: seen.append(1))
    pictures(generate(base, replace(guided(guide, TWO), num_images=2)))
    hook.remove()
    assert len(seen) == 2


def test_a_quantised_base_is_drawn_with_it_too(base: Base, folder: Path, guide: LoadedGuide) -> None:
    small = models.load(base.folder, "cpu", forms=("int8",))
    (ours,) = pictures(generate(small, guided(open_guide(folder, small, "reference"))))
    (plain,) = pictures(generate(base, guided(guide)))
    (without,) = pictures(generate(small, REQUEST))
    near, far = (np.abs(ours.astype(int) - other.astype(int)).mean() for other in (plain, without))
    assert near < far / 3


# -- memory


def test_parts_that_take_turns_draw_the_same_picture(
    base: Base, folder: Path, guide: LoadedGuide, device_of_its_own: Callable[[int], None]
) -> None:
    expected = pictures(generate(base, guided(guide, TWO)))
    device_of_its_own(0)
    offloaded = models.load(base.folder, "cpu", forms=("plain",))
    there: list[tuple[str, bool, bool]] = []
    other = open_guide(folder, offloaded, "reference")
    lora = other._weights  # type: ignore[attr-defined]

    def note(who: str) -> Callable[..., None]:
        return lambda *_, **__: there.append((who, offloaded._parts["vae"].on_device, lora.on_device))

    offloaded.parts.vae.encoder.register_forward_hook(note("encoder"))
    offloaded.denoiser.register_forward_hook(note("denoiser"))
    np.testing.assert_array_equal(pictures(generate(offloaded, guided(other, TWO))), expected)
    assert set(there) == {("encoder", True, False), ("denoiser", False, True)}
    assert not lora.on_device


def test_the_plan_counts_the_lora_and_the_tokens_of_references(
    base: Base, folder: Path, guide: LoadedGuide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tiny base, encoding the prompt needs most memory, so more is claimed for the denoiser."""
    tokens = (96 // 16) * (64 // 16)  # the only reference is read as 96 x 76 pixels
    a_token = 17.4 * base.denoiser.inner_dim * base.denoiser.dtype.itemsize
    own = type(base.family).working_bytes
    monkeypatch.setattr(
        type(base.family),
        "working_bytes",
        lambda *a, **k: (needed := own(*a, **k)) | {"transformer": needed["transformer"] + GIB},
    )

    def needed(request: PictureRequest) -> int:
        return next(event.needed_bytes for event in generate(base, request) if isinstance(event, Plan))

    lora = sum(weights.nbytes for weights in load_file(folder / FILE).values())
    encoding = base.part_bytes("vae") + autoencoder_bytes(base.parts.vae, 64, 96)
    reading = lora + int(tokens * a_token)
    assert needed(guided(guide)) - needed(REQUEST) == pytest.approx(max(encoding, reading), abs=2)
    monkeypatch.setattr(uno, "autoencoder_bytes", lambda *_: 0)
    monkeypatch.setattr(base, "part_bytes", lambda _: 0)
    assert needed(guided(guide)) - needed(REQUEST) == pytest.approx(reading, abs=2)


# -- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.6}, "scale of reference pictures is 0.6, and bases with UNO read them or do not: use 1, or 0"),
        ({"end": 0.7}, "UNO are used in every step: leave out their window"),
        ({"references": ()}, "at least one picture"),
        ({"references": (reference(520, 64),)}, "reference 1 is 64 x 520 pixels: one side must be at most 8 times"),
    ],
)
def test_what_cannot_be_used_is_refused(base: Base, guide: LoadedGuide, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        list(generate(base, guided(guide, **change)))


def test_another_sampler_is_refused_before_anything_is_drawn(base: Base, guide: LoadedGuide) -> None:
    with pytest.raises(BadInput, match="UNO is drawn with euler, not heun: leave it out"):
        next(iter(generate(base, replace(guided(guide), sampler="heun"))))
    pictures(generate(base, replace(guided(guide), sampler="euler")))


def missing(weights: dict[str, torch.Tensor]) -> None:
    for side in ("down", "up"):
        del weights[f"double_blocks.1.processor.proj_lora2.{side}.weight"]


def one_too_many(weights: dict[str, torch.Tensor]) -> None:
    for side in ("down", "up"):
        kind = f"processor.qkv_lora.{side}.weight"
        weights[f"single_blocks.7.{kind}"] = weights[f"single_blocks.0.{kind}"].clone()


def narrow(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        weights[name] = (tensor[:, ::2] if ".down." in name else tensor[::2]).contiguous()


def not_finite(weights: dict[str, torch.Tensor]) -> None:
    weights["single_blocks.0.processor.proj_lora.up.weight"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"2 double and 2 single blocks: it lacks 1 layers, such as double_blocks.1.proj2"),
        (one_too_many, "it also has 1 layers, such as single_blocks.7.qkv"),
        (narrow, "does not fit this base: its transformer_blocks.0"),
        (not_finite, "not finite"),
    ],
)
def test_a_file_that_is_not_exactly_one_for_the_base_is_refused(
    base: Base, folder: Path, tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    weights = load_file(folder / FILE)
    damage(weights)
    save_file(weights, tmp_path / FILE)
    with pytest.raises(ModelUnreadable, match=message):
        open_guide(tmp_path, base, "reference")


def test_a_base_of_another_family_is_refused(folder: Path, tiny_models: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"dit_lora.safetensors is a LoRA for flux, but the base is sd15"):
        open_guide(folder, models.load(tiny_models / "tiny-sd15", "cpu"), "reference")

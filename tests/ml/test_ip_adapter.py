"""Reference pictures through an IP-Adapter: drawn as in plain diffusers, and refused by name where they cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from tests.ml import vanilla
from tests.ml.families import only_flux, only_klein, only_sd15, only_u_net
from tests.ml.references import as_pil, reference
from tests.ml.runs import pictures
from tests.ml.test_guides import AddsConstant
from worker.ml import models
from worker.ml.draw.denoise import Step
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.families.flux1 import Flux
from worker.ml.families.ip_adapters import NAMES
from worker.ml.guides.ip_adapter import Embedded, IPAdapter
from worker.ml.guides.ip_adapter_files import load_adapter
from worker.ml.guides.registry import open_guide
from worker.ml.guides.tiny.ip_adapter import EMBEDDING, FILE, TOKEN, build_tiny, random_weights
from worker.ml.memory import GIB, Plan
from worker.ml.models import Base
from worker.ml.protocol import GuideUse, Inputs, Pixels
from worker.ml.train.train_lora import TrainedLora

PROMPT = "a photo"
REQUEST = PictureRequest(PROMPT, negative_prompt=None, width=48, height=32, steps=3, guidance=3.5, seed=5)
SETTINGS = {"width": 48, "height": 32, "num_inference_steps": 3, "guidance_scale": 3.5}
ONE, TWO = (reference(120, 150),), (reference(120, 150), reference(70, 300, seed=1))
adapted = pytest.mark.parametrize("family", ["flux", "sd15", "sdxl"], indirect=True)
each_shape = pytest.mark.parametrize("family", ["flux", "sd15"], indirect=True)
"""A transformer and a U-Net, for what is not the families' own."""


@pytest.fixture(scope="session")
def adapter(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / f"ip-adapter-{base.family.name}"
    build_tiny(folder, base)
    return folder


@pytest.fixture(scope="session")
def guide(base: Base, adapter: Path) -> IPAdapter:
    return opened(base, adapter)


@pytest.fixture
def broken(adapter: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, to be damaged."""
    return Path(shutil.copytree(adapter, tmp_path / adapter.name))


def opened(base: Base, folder: Path) -> IPAdapter:
    guide = open_guide(folder, base, "reference")
    assert isinstance(guide, IPAdapter)
    return guide


def guided(guide: IPAdapter, references: tuple[Pixels, ...] = ONE, scale: float = 1.0) -> PictureRequest:
    return replace(REQUEST, guides=(GuideUse(guide, references, scale),))


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def attached_to(base: Base) -> tuple[object, ...]:
    """What an adapter changes of a denoiser."""
    denoiser = base.denoiser
    processors = {name: id(processor) for name, processor in denoiser.attn_processors.items()}
    projection = denoiser.__dict__.get("encoder_hid_proj", "none"), denoiser._modules.get("encoder_hid_proj", "none")
    kind = getattr(denoiser.config, "encoder_hid_dim_type", None)
    return processors, projection, kind, sorted(denoiser.state_dict())


# -- as plain diffusers


@adapted
def test_references_are_drawn_as_in_plain_diffusers(base: Base, adapter: Path, guide: IPAdapter) -> None:
    (ours,) = pictures(generate(base, guided(guide, TWO, 0.6)))
    images = {"ip_adapter_image": [as_pil(TWO)]}
    theirs = vanilla.draw(base.folder, PROMPT, seed=5, adapter=(adapter, 0.6), **images, **SETTINGS)
    assert furthest(ours, theirs) == 0
    (without,) = pictures(generate(base, REQUEST))
    (of_another,) = pictures(generate(base, guided(guide, (reference(120, 150, seed=2),), 0.6)))
    assert min(furthest(ours, without), furthest(ours, of_another)) > 5


@each_shape
def test_beside_a_lora_too(base: Base, adapter: Path, guide: IPAdapter, trained: TrainedLora) -> None:
    request = replace(guided(guide), loras=(LoraUse(trained.path, 0.8),))
    (ours,) = pictures(generate(base, request))
    loras, images = [(trained.path, 0.8)], {"ip_adapter_image": [as_pil(ONE)]}
    theirs = vanilla.draw(base.folder, PROMPT, seed=5, loras=loras, adapter=(adapter, 1.0), **images, **SETTINGS)
    assert furthest(ours, theirs) == 0
    assert furthest(ours, pictures(generate(base, guided(guide)))[0]) > 5


@only_u_net
def test_an_adapter_that_reads_all_tokens_of_the_encoder_too(base: Base, tmp_path: Path) -> None:
    build_tiny(tmp_path / "plus", base, plus=True)
    (ours,) = pictures(generate(base, guided(opened(base, tmp_path / "plus"), TWO)))
    images = {"ip_adapter_image": [as_pil(TWO)]}
    theirs = vanilla.draw(base.folder, PROMPT, seed=5, adapter=(tmp_path / "plus", 1.0), **images, **SETTINGS)
    assert furthest(ours, theirs) == 0


@only_u_net
def test_a_full_face_adapter_which_has_a_projection_of_two_layers_too(base: Base, broken: Path) -> None:
    """In the names of h94's ip-adapter-full-face: every token of the encoder becomes one beside the text."""

    def full_face(weights: dict[str, torch.Tensor]) -> None:
        width = len(weights["image_proj.norm.weight"])
        for name in [name for name in weights if name.startswith("image_proj.")]:
            del weights[name]
        layers = {
            "0": torch.nn.Linear(TOKEN, TOKEN),
            "2": torch.nn.Linear(TOKEN, width),
            "3": torch.nn.LayerNorm(width),
        }
        for name, value in torch.nn.ModuleDict(layers).named_parameters():
            weights[f"image_proj.proj.{name}"] = value.data

    changed(full_face)(broken)
    (ours,) = pictures(generate(base, guided(opened(base, broken), TWO)))
    images = {"ip_adapter_image": [as_pil(TWO)]}
    theirs = vanilla.draw(base.folder, PROMPT, seed=5, adapter=(broken, 1.0), **images, **SETTINGS)
    assert furthest(ours, theirs) == 0


def test_xlabs_second_adapter_makes_sixteen_tokens_of_a_picture(tmp_path: Path) -> None:
    """diffusers knows it by the size of its projection, for text as wide as FLUX.1's."""
    width, tokens = 4096, 16
    denoiser = FluxTransformer2DModel(
        **{"num_layers": 2, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 1},
        **{"joint_attention_dim": width, "pooled_projection_dim": 8, "axes_dims_rope": (4, 6, 6), "in_channels": 4},
    )
    base: Any = SimpleNamespace(family=Flux(), denoiser=denoiser, dtype=torch.float32, folder=tmp_path)
    weights = random_weights(base)
    own = {"proj": torch.nn.Linear(EMBEDDING, tokens * width), "norm": torch.nn.LayerNorm(width)}
    for name, value in torch.nn.ModuleDict(own).named_parameters():
        weights[f"ip_adapter_proj_model.{name}"] = value.data
    save_file(weights, tmp_path / "ip_adapter.safetensors")
    adapter = load_adapter(tmp_path / "ip_adapter.safetensors", base)
    picture = torch.randn(1, EMBEDDING)
    expected = own["norm"](own["proj"](picture).reshape(1, tokens, width))
    torch.testing.assert_close(adapter.projection(picture), expected)
    assert (len(adapter.processors), adapter.reads_embedding, adapter.width) == (2, True, EMBEDDING)


@each_shape
def test_in_bfloat16_too(base: Base, adapter: Path) -> None:
    half = models.load(base.folder, "cpu", torch.bfloat16)
    smallest = replace(guided(opened(half, adapter), TWO, 0.6), width=32, height=32, steps=2)
    (ours,) = pictures(generate(half, smallest))
    settings = SETTINGS | {"width": 32, "height": 32, "num_inference_steps": 2}
    settings |= {"ip_adapter_image": [as_pil(TWO)], "dtype": torch.bfloat16}
    assert furthest(ours, vanilla.draw(base.folder, PROMPT, seed=5, adapter=(adapter, 0.6), **settings)) == 0


@each_shape
def test_in_float16_it_is_close_to_float32(base: Base, adapter: Path, guide: IPAdapter) -> None:
    half = models.load(base.folder, "cpu", torch.float16)
    (ours,) = pictures(generate(half, guided(opened(half, adapter))))
    (whole,) = pictures(generate(base, guided(guide)))
    assert np.abs(ours.astype(int) - whole).mean() < 2


@only_flux
def test_an_adapter_in_diffusers_names_is_the_same(base: Base, guide: IPAdapter, broken: Path) -> None:
    halves = {}
    for name, weights in load_file(broken / FILE).items():
        half, own = NAMES["flux"].part_of(name) or ("", "")
        halves[f"{half}.{own}"] = weights
    save_file(halves, broken / FILE)
    assert "ip_adapter.0.to_k_ip.weight" in halves
    np.testing.assert_array_equal(*(pictures(generate(base, guided(g))) for g in (guide, opened(base, broken))))


@only_flux
def test_a_negative_prompt_comes_with_a_black_picture_where_the_pipeline_has_one(
    base: Base, unguided: Base, adapter: Path, guide: IPAdapter
) -> None:
    """The adapter was loaded for another base of the family."""
    (ours,) = pictures(generate(unguided, replace(guided(guide, TWO), negative_prompt="a red wall")))
    settings = {**SETTINGS, "negative_prompt": "a red wall", "ip_adapter_image": [as_pil(TWO)]}
    theirs = vanilla.draw(unguided.folder, PROMPT, seed=5, adapter=(adapter, 1.0), **settings)
    assert furthest(ours, theirs) <= 1  # diffusers makes the two predictions one after the other


# -- nothing else changes


@each_shape
def test_scale_0_is_bit_equal_to_no_reference(base: Base, guide: IPAdapter) -> None:
    np.testing.assert_array_equal(*(pictures(generate(base, r)) for r in (guided(guide, scale=0.0), REQUEST)))


class NotesLatents(AddsConstant):
    """Notes the latents of each evaluation and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.latents: list[torch.Tensor] = []

    def change(self, state: float, inputs: Inputs, done: float) -> Inputs:
        self.latents.append(inputs.latents)
        return inputs


@each_shape
def test_a_seed_keeps_its_noise(base: Base, guide: IPAdapter) -> None:
    notes = NotesLatents(), NotesLatents()
    uses = GuideUse(notes[0], ONE), GuideUse(notes[1], ONE)
    pictures(generate(base, replace(REQUEST, guides=(uses[0],))))
    pictures(generate(base, replace(REQUEST, guides=(*guided(guide).guides, uses[1]))))
    assert torch.equal(notes[0].latents[0], notes[1].latents[0])
    assert not torch.equal(notes[0].latents[-1], notes[1].latents[-1])


@each_shape
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_guided_drawing_leaves_the_denoiser_as_it_was(base: Base, guide: IPAdapter, stopped_after: int) -> None:
    before, plain = attached_to(base), pictures(generate(base, REQUEST))
    assert before[2] is None
    drawing = generate(base, guided(guide))
    assert next(step for step in drawing if isinstance(step, Step) and step.index == stopped_after)
    assert attached_to(base) != before
    drawing.close()
    assert attached_to(base) == before
    np.testing.assert_array_equal(pictures(generate(base, REQUEST)), plain)


@each_shape
def test_an_error_in_a_step_leaves_the_denoiser_as_it_was(
    base: Base, guide: IPAdapter, trained: TrainedLora, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    before = attached_to(base)
    with monkeypatch.context() as patch:
        patch.setattr(type(base.family), "predict", fail)
        with pytest.raises(torch.OutOfMemoryError):
            list(generate(base, replace(guided(guide), loras=(LoraUse(trained.path),))))
    assert attached_to(base) == before


@each_shape
def test_what_another_guide_gives_the_denoiser_is_kept(base: Base, guide: IPAdapter) -> None:
    argument, own = NAMES[base.family.name].argument
    prompt = base.family.encode_prompts(base.parts, [PROMPT], base.device)
    others: Any = {argument: {"other": 1}, "residuals": 2}
    inputs = Inputs(torch.zeros(1), torch.zeros(1), prompt, (4, 4), 1.0, ("wanted",), extra=others)
    extra = guide.change(Embedded({"wanted": torch.zeros(1, 1, 24)}, 1.0), inputs, 0.0).extra
    assert (extra[argument].keys(), extra["residuals"]) == ({"other", own}, 2)


# -- memory


@each_shape
def test_parts_that_take_turns_draw_the_same_picture(
    base: Base, adapter: Path, guide: IPAdapter, device_of_its_own: Callable[[int], None]
) -> None:
    """Text encoders, image encoder, then denoiser and adapter: none is on the device at another's time."""
    expected = pictures(generate(base, guided(guide)))
    device_of_its_own(0)
    offloaded = models.load(base.folder, "cpu", forms=("plain",))
    other = opened(offloaded, adapter)
    there: list[tuple[str, bool, bool, bool, bool]] = []

    def note(who: str) -> Callable[..., None]:
        denoiser = offloaded._parts[offloaded.family.denoiser]
        parts = offloaded._parts["text_encoder"], other._encoder_weights, denoiser, other._weights
        return lambda *_, **__: there.append((who, *(part.on_device for part in parts)))

    other._encoder.register_forward_hook(note("encoder"))
    offloaded.denoiser.register_forward_hook(note("denoiser"))
    offloaded.parts.vae.decoder.register_forward_hook(note("decoder"))
    np.testing.assert_array_equal(pictures(generate(offloaded, guided(other))), expected)
    assert set(there) == {
        ("encoder", False, True, False, False),
        ("denoiser", False, False, True, True),
        ("decoder", False, False, False, False),
    }


@each_shape
def test_the_plan_counts_the_larger_of_adapter_and_encoder(
    base: Base, guide: IPAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tiny base, encoding the prompt needs most memory, so more is claimed for the denoiser."""
    monkeypatch.setattr(type(base.family), "working_bytes", lambda *_, **__: {base.family.denoiser: GIB})

    def needed(request: PictureRequest) -> int:
        return next(event.needed_bytes for event in generate(base, request) if isinstance(event, Plan))

    def needs(references: tuple[Pixels, ...]) -> int:
        return needed(guided(guide, references)) - needed(REQUEST)

    assert needs(ONE) >= max(guide._weights.nbytes, guide._encoder_weights.nbytes)
    assert needs(ONE * 50) > needs(ONE)


@only_sd15
def test_references_are_embedded_once_a_request_and_then_forgotten(base: Base, guide: IPAdapter) -> None:
    seen: list[int] = []
    hook = guide._encoder.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        request = replace(guided(guide), num_images=3)
        pictures(generate(base, request))
        assert guide._embedded._last is None
    hook.remove()
    assert len(seen) == 2


# -- bad input


@only_sd15
@pytest.mark.parametrize(
    ("references", "message"),
    [
        ((reference(1, 1),), "reference 1 is 1 x 1 pixels: each side must be at least 64"),
        ((*ONE, reference(64, 513)), "reference 2 is 513 x 64 pixels: one side must be at most 8 times the other"),
        ((), "at least one picture"),
    ],
)
def test_a_reference_that_shows_too_little_is_refused(
    base: Base, guide: IPAdapter, references: tuple[Pixels, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        list(generate(base, guided(guide, references)))


@each_shape
def test_a_grey_reference_and_one_of_8_to_1_are_drawn_as_in_plain_diffusers(
    base: Base, adapter: Path, guide: IPAdapter
) -> None:
    grey = np.repeat(reference(100, 100)[:, :, :1], 3, axis=2)
    both = grey, reference(64, 512)
    (ours,) = pictures(generate(base, guided(guide, both)))
    images = {"ip_adapter_image": [as_pil(both)]}
    assert furthest(ours, vanilla.draw(base.folder, PROMPT, seed=5, adapter=(adapter, 1.0), **images, **SETTINGS)) == 0


@only_sd15
def test_two_adapters_at_once_and_a_window_are_refused(base: Base, guide: IPAdapter) -> None:
    (use,) = guided(guide).guides
    before = attached_to(base)
    for guides, message in (((use, use), "one IP-Adapter at a time"), ((replace(use, end=0.5),), "in every step")):
        with pytest.raises(BadInput, match=message):
            list(generate(base, replace(REQUEST, guides=guides)))
    assert attached_to(base) == before


def only_pickle(folder: Path) -> None:
    (folder / FILE).unlink()
    torch.save({}, folder / "ip-adapter.bin")


def cut_off(file: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return cut


def changed(change: Callable[[dict[str, torch.Tensor]], Any], file: str = FILE) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weights = load_file(folder / file)
        change(weights)
        save_file(weights, folder / file, {"format": "pt"})

    return write


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values())).view(-1)[0] = torch.nan


def of_another_encoder(folder: Path) -> None:
    config = json.loads((folder / "image_encoder" / "config.json").read_text())
    config["projection_dim"] = 40
    (folder / "image_encoder" / "config.json").write_text(json.dumps(config))
    change = changed(lambda w: w.update({"visual_projection.weight": torch.ones(40, 32)}), ENCODER_FILE)
    change(folder)


def face_id(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if ".proj." in name]:
        weights[name.replace(".proj.", ".proj.0.")] = weights.pop(name)


ENCODER_FILE = "image_encoder/model.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "only a pickle": (only_pickle, "ip-adapter.bin of .* is a pickle: only .safetensors"),
    "a pickle under this name": (lambda folder: torch.save({}, folder / FILE), f"{FILE} cannot be read: a pickle"),
    "cut off": (cut_off(FILE), f"{FILE} cannot be read: .*incomplete"),
    "empty folder": (lambda folder: (folder / FILE).unlink(), "holds no .safetensors file"),
    "two adapters": (lambda f: shutil.copy(f / FILE, f / "b.safetensors"), "several IP-Adapters: keep one of b.saf"),
    "no encoder": (lambda f: shutil.rmtree(f / "image_encoder"), "has no image encoder: image_encoder/config.json"),
    "no weights of the encoder": (lambda f: (f / ENCODER_FILE).unlink(), "image_encoder of .* incomplete or damaged"),
    "encoder cut off": (cut_off(ENCODER_FILE), "image_encoder of .* incomplete or damaged"),
    "encoder lacks a layer": (
        changed(lambda weights: weights.pop("visual_projection.weight"), ENCODER_FILE),
        "image_encoder of .* is incomplete: it has no visual_projection.weight",
    ),
    "another encoder's": (of_another_encoder, f"{FILE} reads 24 numbers a picture, .* gives 40"),
    "not a number": (changed(not_a_number), f"{FILE} of .* not finite in float32"),
    "not a number in the encoder": (changed(not_a_number, ENCODER_FILE), "image_encoder of .* not finite"),
    "FaceID": (changed(face_id), f"{FILE} is an IP-Adapter of a kind that is unsupported for .*; supported: plain"),
    "a LoRA": (changed(lambda w: w.update({"lora_unet_x.alpha": torch.ones(1)})), "not an IP-Adapter for .*lora_unet"),
    "a layer more": (
        changed(
            lambda w: w.update({layer.replace(".1.", ".99."): w[layer].clone() for layer in [*w] if "_k_" in layer})
        ),
        f"{FILE} does not fit tiny-.*, which has no layer 99",
    ),
    "a layer less": (
        changed(lambda w: [w.pop(layer) for layer in [*w] if ".1." in layer]),
        f"{FILE} does not fit tiny-.*: it has no 1.to_k_ip",
    ),
}


@each_shape
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_cannot_be_used_is_refused_by_name(base: Base, broken: Path, damage: str) -> None:
    harm, message = DAMAGES[damage]
    harm(broken)
    with pytest.raises(ModelUnreadable, match=message):
        open_guide(broken, base, "reference")


@pytest.mark.parametrize(
    ("family", "other"), [("flux", "sd15"), ("sd15", "flux"), ("sd15", "sdxl"), ("sdxl", "sd15")], indirect=["family"]
)
def test_an_adapter_of_another_family_is_refused(base: Base, tiny_models: Path, tmp_path: Path, other: str) -> None:
    build_tiny(tmp_path / "other", models.load(tiny_models / f"tiny-{other}", "cpu"))
    with pytest.raises(ModelUnreadable, match=f"^{FILE} "):
        open_guide(tmp_path / "other", base, "reference")


@only_klein
def test_an_adapter_for_a_family_that_has_none_is_refused(base: Base, tiny_models: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "other", models.load(tiny_models / "tiny-sd15", "cpu"))
    with pytest.raises(ModelUnreadable, match=f"{FILE} is an IP-Adapter, which klein bases have no use for"):
        open_guide(tmp_path / "other", base, "reference")


@only_sd15
def test_what_a_folder_does_not_give_is_refused(base: Base, adapter: Path, tmp_path: Path) -> None:
    for folder, capability, message in (
        (adapter, "control:pose", "ip-adapter-sd15 is not a ControlNet"),
        (tmp_path / "missing", "reference", "missing is not a guide"),
        (None, "reference", "has no reference built in"),
    ):
        with pytest.raises(ModelUnreadable, match=message):
            open_guide(folder, base, capability)

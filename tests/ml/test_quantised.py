"""Denoisers in 8 and 4 bits: how close they are to plain ones, drawing and training with them, and their masters.

The bounds are about twice what was measured on the tiny bases.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.ml.families import only_flux
from tests.ml.runs import finish, lora_config, pictures, predict
from tests.ml.test_memory import LiveBytes
from worker.demo.held_out_loss import held_out_loss
from worker.ml import memory, models
from worker.ml.draw.generate import LoraUse, PictureRequest, generate
from worker.ml.errors import PackageMissing
from worker.ml.memory import GIB, Plan
from worker.ml.models import Base, Store
from worker.ml.phases import Phase, Underway
from worker.ml.quantise import forms
from worker.ml.quantise.int8 import Int8Linear
from worker.ml.quantise.linear import QuantisedLinear
from worker.ml.quantise.nf4 import Nf4Linear, has_bitsandbytes
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Checkpoint, LoraConfig, Run, Step, TrainedLora, train

pytestmark = pytest.mark.skipif(not has_bitsandbytes(), reason="nf4 needs bitsandbytes (the gpu and dev extras)")
REQUEST = PictureRequest("a photo", negative_prompt=None, width=64, height=64, steps=2, guidance=2.0, seed=5)
CONFIG = lora_config(steps=3, rank=4, learning_rate=1e-3, resolution=32, batch_size=2)
CPU = torch.device("cpu")
LAYERS = {"int8": Int8Linear, "nf4": Nf4Linear}
CLOSE = {"int8": 0.003, "nf4": 0.05}
"""How far a prediction may be from the plain one, relative to its size."""
LOOSER = {"z-image": 7}
"""Times as far, where the tiny denoiser's random layers make up most of the prediction."""

each_form = pytest.mark.parametrize("form", ["int8", "nf4"])


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The size of the difference relative to theirs."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


# -- one layer


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def plain(request: pytest.FixtureRequest) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(100, 48).to(request.param).requires_grad_(False)


def test_an_int8_weight_is_off_by_half_a_step_of_its_row(plain: torch.nn.Linear) -> None:
    error = (Int8Linear(plain, CPU).wide(torch.float32) - plain.weight.float()).abs()
    step = plain.weight.float().abs().amax(1, keepdim=True) / 127
    assert (error <= step * 0.501).all()


def test_an_nf4_weight_is_off_by_a_tenth_on_average(plain: torch.nn.Linear) -> None:
    assert difference(Nf4Linear(plain, CPU).wide(torch.float32), plain.weight) < 0.11


@each_form
def test_the_size_of_a_layer_is_known_before_it_is_quantised(plain: torch.nn.Linear, form: str) -> None:
    layer = LAYERS[form](plain, CPU)
    assert sum(tensor.nbytes for tensor in layer.buffers()) == LAYERS[form].nbytes(plain)


@each_form
def test_no_wide_weights_are_kept_for_the_backward_pass(plain: torch.nn.Linear, form: str) -> None:
    layer = LAYERS[form](plain, CPU)
    x = torch.randn(5, 100, dtype=plain.weight.dtype, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        result = layer(x)
    assert kept == []
    upstream = torch.randn_like(result)
    result.backward(upstream)
    torch.testing.assert_close(result, torch.nn.functional.linear(x, layer.wide(x.dtype), plain.bias))
    torch.testing.assert_close(x.grad, upstream @ layer.wide(x.dtype))


@each_form
def test_a_layer_computes_in_the_precision_of_autocast(form: str) -> None:
    layer = LAYERS[form](torch.nn.Linear(64, 64).requires_grad_(False), CPU)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(1, 64)).dtype == torch.bfloat16
    assert layer(torch.zeros(1, 64)).dtype == torch.float32


def test_a_row_of_zeros_stays_zero_and_one_that_is_not_finite_does_not_become_so() -> None:
    plain = torch.nn.Linear(64, 3).requires_grad_(False)
    plain.weight[0] = 0
    plain.weight[1, 5] = torch.inf
    wide = Int8Linear(plain, CPU).wide(torch.float32)
    assert (wide[0] == 0).all()
    assert not wide[1].isfinite().all()
    assert wide[2].isfinite().all()


# -- a base


def in_form(folder: Path, form: str) -> Base:
    """Load a base in one form only, as no plan chooses on a CPU."""
    base = models.load(folder, "cpu", forms=(form,))
    base.use(base.family.denoiser, form)
    return base


made_in_form = cache(in_form)


@pytest.fixture
def quantised(tiny_base: Path) -> Callable[[str], Base]:
    """The tiny base in one form only, made once, which takes seconds. No test may leave it changed."""
    return lambda form: made_in_form(tiny_base, form)


@pytest.fixture
def prediction(base: Base) -> Callable[[Base], torch.Tensor]:
    family, grid = base.family, (4, 4)
    condition = family.encode_prompts(base.parts, ["a photo of a person"], base.device)
    generator = torch.Generator().manual_seed(1)
    side = 4 * family.token_px(base.parts)
    picture = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    latents = family.encode_picture(base.parts, picture)
    noise = torch.randn(latents.shape, generator=generator)
    time = family.even_times(base.parts, 3)[1:2]
    noised, _ = family.noised_input_and_target(base.parts, latents, noise, time)

    @torch.no_grad()
    def of(other: Base) -> torch.Tensor:
        return predict(other, noised, time, condition, grid)

    return of


@each_form
def test_the_prediction_of_a_quantised_denoiser_is_close_to_that_of_the_plain_one(
    base: Base, quantised: Callable[[str], Base], prediction: Callable[[Base], torch.Tensor], form: str
) -> None:
    ours, theirs = prediction(quantised(form)), prediction(base)
    assert 0 < difference(ours, theirs) < CLOSE[form] * LOOSER.get(base.family.name, 1)


def test_only_layers_of_the_blocks_are_quantised(base: Base, quantised: Callable[[str], Base]) -> None:
    """First and last layers, and the embeddings of time and text."""
    layers = {name for name, layer in quantised("int8").denoiser.named_modules() if isinstance(layer, QuantisedLinear)}
    plain = {name for name, layer in base.denoiser.named_modules() if isinstance(layer, torch.nn.Linear)} - layers
    assert all("blocks." in name for name in layers)
    assert layers
    assert all(not name.startswith(("transformer_blocks", "single_transformer_blocks")) for name in plain)
    assert plain


@only_flux
@each_form
def test_the_picture_is_recognisably_the_same(base: Base, quantised: Callable[[str], Base], form: str) -> None:
    (ours,), (theirs,) = (pictures(generate(one, replace(REQUEST, steps=4))) for one in (quantised(form), base))
    off = np.abs(ours.astype(int) - theirs)
    assert 0 < off.mean() < {"int8": 0.2, "nf4": 2}[form]


@only_flux
@each_form
def test_leaving_the_device_copies_nothing_and_other_weights_are_really_used(
    tiny_base: Path,
    device_of_its_own: Callable[[int], None],
    prediction: Callable[[Base], torch.Tensor],
    form: str,
) -> None:
    """Codes and scales are masters too: what is on the device is a copy, and what is changed in the host is read."""
    device_of_its_own(0)
    base = in_form(tiny_base, form)
    layers = [layer for layer in base.denoiser.modules() if isinstance(layer, QuantisedLinear)]

    def places() -> list[int]:
        return [tensor.data_ptr() for layer in layers for tensor in layer.buffers()]

    masters, before = places(), prediction(base)
    base.place(base.family.denoiser)
    assert not set(places()).intersection(masters)
    assert torch.equal(prediction(base), before)
    base.to_host()
    assert places() == masters
    for layer in layers:
        for name in ("scale", "scales_absmax", "offset"):
            if hasattr(layer, name):
                getattr(layer, name).mul_(1.5)
    base.place(base.family.denoiser)
    assert difference(prediction(base), before) > 0.01


@only_flux
def test_a_form_is_made_once_and_the_plain_one_comes_back_bit_for_bit(
    base: Base, tiny_base: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(2**40)
    changing = models.load(tiny_base, "cpu")
    drawn = {}
    for form in ("int8", "plain", "nf4", "int8", "plain"):
        assert changing.must_quantise(changing.family.denoiser, form) == (form not in drawn and form != "plain")
        changing.use(changing.family.denoiser, form)
        changing.place(changing.family.denoiser)
        (pixels,) = pictures(_drawn_in(changing, form))
        np.testing.assert_array_equal(drawn.setdefault(form, pixels), pixels)
    np.testing.assert_array_equal(drawn["plain"], *pictures(generate(base, REQUEST)))
    assert len({pixels.tobytes() for pixels in drawn.values()}) == 3


def _drawn_in(base: Base, form: str) -> Iterator[object]:
    """Draw in this form, whatever the plan would choose."""
    offered, base.offered = base.offered, {**base.offered, base.family.denoiser: [form]}
    try:
        yield from generate(base, REQUEST)
    finally:
        base.offered = offered


@only_flux
def test_quantising_holds_one_layer_at_a_time(tiny_base: Path) -> None:
    """At the peak there are the codes so far and what one layer's computation takes, in float32 and several times."""
    base = models.load(tiny_base, "cpu", forms=("plain",))
    largest = max(layer.weight.nbytes for layer in base.denoiser.modules() if isinstance(layer, torch.nn.Linear))
    with LiveBytes(base.denoiser) as live:
        base.use(base.family.denoiser, "int8")
    assert live.peak < base.denoiser_bytes("int8")[0] + 5 * largest


# -- memory of the host


@only_flux
def test_quantised_copies_count_against_the_limit_of_the_host_and_others_make_room(
    tiny_base: Path, tmp_path: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(2**40)
    said: list[str] = []

    class Slab:
        anonymous_bytes = 1000

    base = models.load(tiny_base, "cpu")
    before, sizes = base.anonymous_bytes, {}
    for form in ("int8", "nf4"):
        base.use(base.family.denoiser, form)
        sizes[form] = base.anonymous_bytes - before - sum(sizes.values())
        weights = sum(layer.numel() for layer in _weights_of_layers(tiny_base))
        assert sizes[form] == pytest.approx(weights * {"int8": 1, "nf4": 0.5}[form], rel=0.15)

    store = Store(said.append, limit_bytes=before + sizes["int8"] + 999)
    (tmp_path / "slab").touch()
    store.get(tmp_path / "slab", lambda _: Slab())
    kept = store.base(tiny_base)
    kept.use(kept.family.denoiser, "int8")
    assert len(said) == 1
    assert said[0].startswith("unloaded ")
    kept.use(kept.family.denoiser, "nf4")
    assert kept.must_quantise(kept.family.denoiser, "int8"), "there is room for one of them"
    assert store.base(tiny_base) is kept


def _weights_of_layers(folder: Path) -> list[torch.Tensor]:
    denoiser = models.load(folder, "cpu", forms=("int8",))
    denoiser.use(denoiser.family.denoiser, "int8")
    return [layer.weight for layer in denoiser.denoiser.modules() if isinstance(layer, QuantisedLinear)]


# -- plans


@only_flux
def test_a_plan_quantises_only_as_far_as_it_must_and_says_why(
    tiny_base: Path, device_of_its_own: Callable[[int], None]
) -> None:
    device_of_its_own(2**40)
    base = models.load(tiny_base, "cpu")
    work = {base.family.denoiser: GIB}
    besides = GIB + memory.WORKSPACE_BYTES
    plain, int8, nf4 = (
        math.ceil((sum(base.denoiser_bytes(form)) + besides) / memory.USABLE_SHARE) for form in ("plain", "int8", "nf4")
    )
    chosen = {}
    for free in (plain, plain - 1, int8, int8 - 1, nf4, 0):
        device_of_its_own(free)
        chosen[free] = base.plan(work)
    found = [plan.forms["transformer"] for plan in chosen.values()]
    assert found == ["plain", "int8", "int8", "nf4", "nf4", "streamed nf4"]
    assert [plan.needed_bytes <= free for free, plan in chosen.items()] == [True] * 5 + [False]
    assert chosen[int8].describe("here") == (
        "int8 transformer, offloaded, here: needs 1.3 of 1.3 GiB free; unquantised, it would need 1.3"
    )
    assert (
        chosen[0]
        .describe("here")
        .startswith("streamed nf4 transformer, nf4 text encoder, offloaded, here: may not fit: needs ")
    )


@only_flux
def test_without_bitsandbytes_plans_stop_at_int8(
    tiny_base: Path, device_of_its_own: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "has_bitsandbytes", lambda: False)
    device_of_its_own(0)
    assert set(models.load(tiny_base, "cpu").plan({}).forms.values()) == {"int8", "streamed int8"}
    with pytest.raises(PackageMissing, match="bitsandbytes"):
        models.load(tiny_base, "cpu", forms=("nf4",))


def test_on_a_cpu_nothing_is_quantised_unless_it_is_asked_for(base: Base, quantised: Callable[[str], Base]) -> None:
    for one, form in ((base, "plain"), (quantised("nf4"), "nf4")):
        (plan,) = [event for event in generate(one, REQUEST) if isinstance(event, Plan)]
        assert set(plan.forms.values()) == {form}


@only_flux
def test_a_job_that_quantises_says_so_once(tiny_base: Path) -> None:
    base = models.load(tiny_base, "cpu", forms=("int8",))
    said = [event.name for _ in range(2) for event in generate(base, REQUEST) if isinstance(event, Phase)]
    assert said.count("quantising the transformer to int8") == 1
    assert said[0] == "quantising the transformer to int8"


@only_flux
def test_quantising_can_be_stopped_between_two_layers_and_begins_anew(base: Base, tiny_base: Path) -> None:
    stopped = models.load(tiny_base, "cpu", forms=("int8",))
    layers = sum(
        isinstance(event, Underway) for event in generate(models.load(tiny_base, "cpu", forms=("int8",)), REQUEST)
    )
    drawing = generate(stopped, REQUEST)
    said = [next(event for event in drawing if isinstance(event, kind)) for kind in (Phase, Underway, Underway)]
    drawing.close()
    assert said == [Phase("quantising the transformer to int8", stepwise=True), *[Underway(said[0].name)] * 2]
    assert stopped.must_quantise("transformer", "int8")
    assert not any(isinstance(layer, QuantisedLinear) for layer in stopped.denoiser.modules())
    events = list(generate(stopped, REQUEST))
    assert sum(isinstance(event, Underway) for event in events) == layers > 2
    assert len(pictures(events)) == 1


# -- LoRAs


@each_form
def test_a_lora_is_attached_to_a_quantised_base_and_leaves_it_as_it_was(
    base: Base, quantised: Callable[[str], Base], trained: TrainedLora, form: str
) -> None:
    ours, with_lora = quantised(form), replace(REQUEST, loras=(LoraUse(trained.path),))
    (before,), (drawn,), (after,) = (pictures(generate(ours, request)) for request in (REQUEST, with_lora, REQUEST))
    (plainly,) = pictures(generate(base, with_lora))
    np.testing.assert_array_equal(before, after)
    assert np.abs(drawn.astype(int) - plainly).mean() < np.abs(drawn.astype(int) - before).mean()


@only_flux
@each_form
def test_a_lora_cannot_be_merged_into_a_quantised_base(
    quantised: Callable[[str], Base], prediction: Callable[[Base], torch.Tensor], form: str
) -> None:
    base = quantised(form)
    before = prediction(base)
    with base.family.new_lora(base.parts, 4, torch.Generator()), pytest.raises(RuntimeError):
        base.denoiser.fuse_lora()
    assert torch.equal(prediction(base), before)


@each_form
def test_a_lora_trained_on_a_quantised_base_has_the_same_names_and_fits_the_plain_one(
    base: Base, quantised: Callable[[str], Base], trained: TrainedLora, photos: list[Photo], tmp_path: Path, form: str
) -> None:
    config = replace(CONFIG, steps=1, batch_size=1)
    lora = finish(train(quantised(form), photos[:1], config, Run(tmp_path)))
    assert load_file(lora.path).keys() == load_file(trained.path).keys()
    (pixels,) = pictures(generate(base, replace(REQUEST, loras=(LoraUse(lora.path),))))
    assert pixels.shape == (64, 64, 3)
    denoiser = base.family.denoiser
    assert lora.memory_plan == f"{form} {denoiser}, {form} text encoder, one part at a time, cpu, float32"


@each_form
def test_loss_and_gradients_of_a_step_are_close_to_the_plain_ones(
    base: Base, quantised: Callable[[str], Base], photos: list[Photo], tmp_path: Path, form: str
) -> None:
    found = [_first_step(one, photos, tmp_path) for one in (base, quantised(form))]
    (loss, gradients), (close_loss, close_gradients) = found
    alike = torch.nn.functional.cosine_similarity(gradients, close_gradients, dim=0)
    assert close_loss == pytest.approx(loss, rel={"int8": 0.001, "nf4": 0.01}[form])
    assert alike > {"int8": 0.999, "nf4": 0.96}[form]


def _first_step(base: Base, photos: list[Photo], workdir: Path) -> tuple[float, torch.Tensor]:
    """The loss of the first step, and the gradients, from the optimizer's first moment in the checkpoint after it."""
    events = train(base, photos[:4], replace(CONFIG, resolutions=(64,)), Run(workdir, checkpoint_every_s=0))
    found = list(_until_checkpoint(events))
    events.close()
    (loss,) = [event.loss for event in found if isinstance(event, Step)]
    state = load_file(found[-1].path)
    moments = [state[name].flatten() for name in sorted(state) if name.endswith("exp_avg")]
    return loss, torch.cat(moments)


def _until_checkpoint(events: Iterator[object]) -> Iterator[object]:
    """The events up to the first checkpoint; the training can go on after it."""
    for event in events:
        yield event
        if isinstance(event, Checkpoint):
            return


@only_flux
@each_form
def test_gradient_checkpointing_changes_nothing_on_a_quantised_base(
    quantised: Callable[[str], Base], photos: list[Photo], tmp_path: Path, form: str
) -> None:
    hashes, base = set(), quantised(form)
    for checkpointing in (False, True):
        if checkpointing:
            base.denoiser.enable_gradient_checkpointing()
        trained = finish(train(base, photos[:2], replace(CONFIG, steps=2), Run(tmp_path)))
        base.denoiser.disable_gradient_checkpointing()
        assert ("gradient checkpointing" in trained.memory_plan) == checkpointing
        hashes.add(trained.sha256)
    assert len(hashes) == 1


@only_flux
@each_form
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(
    quantised: Callable[[str], Base], photos: list[Photo], tmp_path: Path, form: str
) -> None:
    base = quantised(form)
    run = train(base, photos[:2], CONFIG, Run(tmp_path, checkpoint_every_s=0))
    (checkpoint,) = [event for event in _until_checkpoint(run) if isinstance(event, Checkpoint)]
    kept = checkpoint.path.rename(tmp_path / "kept.safetensors")
    whole = finish(run)
    resumed = finish(train(base, photos[:2], CONFIG, Run(tmp_path, resume_from=kept)))
    assert resumed.sha256 == whole.sha256


@only_flux
@pytest.mark.parametrize(("before", "after"), [("nf4", "plain"), ("plain", "int8")])
def test_a_training_resumes_on_a_pod_with_more_or_less_memory(
    quantised: Callable[[str], Base], photos: list[Photo], tmp_path: Path, before: str, after: str
) -> None:
    """The form is not part of what a checkpoint belongs to, as the precision is not."""
    checkpoint = _checkpoint(quantised(before), photos, tmp_path)
    events: list[object] = []
    finish(train(quantised(after), photos[:2], CONFIG, Run(tmp_path, resume_from=checkpoint.path)), events)
    assert [event.index for event in events if isinstance(event, Step)] == [2, 3]
    assert not [event for event in events if isinstance(event, Phase) and "again" in event.name]


def _checkpoint(base: Base, photos: list[Photo], workdir: Path) -> Checkpoint:
    events = train(base, photos[:2], CONFIG, Run(workdir, checkpoint_every_s=0))
    (checkpoint,) = [event for event in _until_checkpoint(events) if isinstance(event, Checkpoint)]
    events.close()
    return checkpoint


@only_flux
@each_form
def test_a_lora_of_a_quantised_base_predicts_its_person_better_than_none(
    base: Base,
    quantised: Callable[[str], Base],
    photos: list[Photo],
    take_photos: Callable[..., list[Photo]],
    quick_config: LoraConfig,
    tmp_path: Path,
    form: str,
) -> None:
    """Held-out photos, on the plain base and on the one that it was trained on."""
    config = replace(quick_config, steps=12, batch_size=2)
    lora = finish(train(quantised(form), photos, config, Run(tmp_path)))
    held_out = take_photos("example", seed=7, count=4)
    for one in (base, quantised(form)):
        without, with_it = (held_out_loss(one, held_out, path, draws=4, resolution=64) for path in (None, lora.path))
        assert with_it < 0.95 * without


def test_bitsandbytes_does_not_warn_of_a_package_that_its_own_layers_would_use() -> None:
    """It does on CPUs with AVX-512 for bfloat16, in each command that asks whether a base can be quantised."""
    assert has_bitsandbytes()
    assert not importlib.import_module("bitsandbytes.backends.cpu.ops").logger.isEnabledFor(logging.WARNING)

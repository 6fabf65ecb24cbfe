"""The scheduler of a base's folder: honoured, drawn with the seed's generator, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ml import vanilla
from worker import errors
from worker.gpu.models import Models
from worker.ml import models
from worker.ml.draw.generate import Picture, PictureRequest, generate
from worker.ml.errors import BadInput, ModelUnreadable, PackageMissing
from worker.ml.models import Base

REQUEST = PictureRequest("a photo", negative_prompt=None, width=48, height=32, steps=3, guidance=3.0, seed=7)
Pixels = Any


@pytest.fixture
def with_scheduler(tiny_models: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny base with another scheduler."""

    def copied(base: str, scheduler: str, **config: object) -> Path:
        folder = tmp_path / base
        if not folder.exists():
            shutil.copytree(tiny_models / base, folder)
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", scheduler]
        (folder / "model_index.json").write_text(json.dumps(index))
        path = folder / "scheduler/scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": scheduler, **config}))
        return folder

    return copied


@pytest.fixture(scope="module")
def usual(tiny_models: Path) -> Pixels:
    return drawn(tiny_models / "tiny-flux")


def drawn(folder: Path | Base, **changes: Any) -> Pixels:
    base = models.load(folder, "cpu") if isinstance(folder, Path) else folder
    events = generate(base, replace(REQUEST, **changes))
    (picture,) = (event.pixels for event in events if isinstance(event, Picture))
    return picture


@pytest.mark.parametrize(
    ("scheduler", "config"),
    [
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("FlowMatchLCMScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ],
)
def test_flow_matching_is_sampled_as_the_folder_says(
    with_scheduler: Callable[..., Path], usual: Pixels, scheduler: str, config: dict[str, object]
) -> None:
    """And a seed means one picture."""
    base = models.load(with_scheduler("tiny-flux", scheduler, **config), "cpu")
    picture = drawn(base)
    assert np.array_equal(drawn(base), picture)
    assert not np.array_equal(usual, picture)
    assert not np.array_equal(drawn(base, seed=8), picture)
    assert drawn(base, steps=1).shape == picture.shape


def test_the_folders_own_variant_of_euler_equals_plain_diffusers(with_scheduler: Callable[..., Path]) -> None:
    folder = with_scheduler("tiny-flux", "FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True)
    theirs = vanilla.draw(folder, "a photo", seed=7, width=48, height=32, num_inference_steps=3, guidance_scale=3.0)
    assert np.array_equal(drawn(folder), theirs)


def test_a_scheduler_that_does_not_sample_flow_matching_is_refused(with_scheduler: Callable[..., Path]) -> None:
    with pytest.raises(ModelUnreadable, match="the scheduler DDIMScheduler, which does not sample flow matching"):
        models.load(with_scheduler("tiny-flux", "DDIMScheduler"), "cpu")


@pytest.mark.parametrize(
    ("scheduler", "config", "package"),
    [
        ("DPMSolverSDEScheduler", {}, "torchsde"),
        ("LMSDiscreteScheduler", {}, "scipy"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "scipy"),
    ],
)
def test_a_scheduler_whose_package_is_not_there_is_model_missing_with_that_reason(
    with_scheduler: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    scheduler: str,
    config: dict[str, object],
    package: str,
) -> None:
    import diffusers
    from diffusers.schedulers import scheduling_euler_discrete
    from diffusers.utils import dummy_torch_and_scipy_objects as without_scipy
    from diffusers.utils import dummy_torch_and_torchsde_objects as without_torchsde
    from diffusers.utils import import_utils

    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", without_scipy.LMSDiscreteScheduler)
    monkeypatch.setattr(diffusers, "DPMSolverSDEScheduler", without_torchsde.DPMSolverSDEScheduler)
    monkeypatch.setattr(scheduling_euler_discrete, "is_scipy_available", lambda: False)
    for name in ("scipy", "torchsde"):
        _, message = import_utils.BACKENDS_MAPPING[name]
        monkeypatch.setitem(import_utils.BACKENDS_MAPPING, name, (lambda: False, message))
    folder = with_scheduler("tiny-sd15", scheduler, **config)
    with pytest.raises(PackageMissing, match=f"tiny-sd15 needs the package {package}, which is not installed"):
        models.load(folder, "cpu")
    with pytest.raises(errors.ModelMissing, match=f"needs the package {package}"):
        Models().base(folder)


@pytest.mark.parametrize("steps", [1, 3])
def test_fewer_steps_than_the_scheduler_can_do_are_refused_with_the_fewest(
    with_scheduler: Callable[..., Path], steps: int
) -> None:
    folder = with_scheduler("tiny-sd15", "PNDMScheduler", skip_prk_steps=False)
    with pytest.raises(BadInput, match=f"PNDMScheduler, the scheduler of this base, needs at least 4, not {steps}"):
        drawn(folder, steps=steps)
    drawn(folder, steps=4)


def test_more_steps_than_the_scheduler_can_do_are_refused(with_scheduler: Callable[..., Path]) -> None:
    folder = with_scheduler("tiny-sd15", "DDIMScheduler")
    with pytest.raises(BadInput, match="cannot draw in 1001 steps: use fewer"):
        drawn(folder, steps=1001)


def test_one_step_is_too_few_where_the_last_time_is_fixed(with_scheduler: Callable[..., Path]) -> None:
    """The division by zero would make a black picture."""
    folder = with_scheduler("tiny-flux", "FlowMatchEulerDiscreteScheduler", shift_terminal=0.02)
    with pytest.raises(BadInput, match="needs at least 2, not 1"):
        drawn(folder, steps=1)

"""The families after FLUX.1 through the whole pipeline, and LoRA files that must not be loaded."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from tests.ml import vanilla
from tests.tiny_models import TINY_BASE
from tests.worker.fleet import Fleet
from tests.worker.studio import SD15, Studio
from tests.worker.test_pipeline import plain_spandrel
from worker.ml.adapters import files as lora_files
from worker.ml.families import lora as lora_families

BASE = SD15


@pytest.fixture(scope="module")
def fleet(studio: Studio) -> Fleet:
    return studio.fleet


@pytest.fixture(scope="module")
def person(fleet: Fleet) -> UUID:
    return fleet.person()


@pytest.fixture(scope="module")
def trained(fleet: Fleet, person: UUID) -> dict[str, Any]:
    """A LoRA of the person, trained with the base's own defaults."""
    job = fleet.app.request("training", subject_id=person, base=BASE, seed=1)
    result: dict[str, Any] = fleet.completed("training", job)["result"]
    return result


def test_a_base_trains_and_draws_with_its_own_defaults_as_plain_diffusers_does(
    fleet: Fleet, person: UUID, trained: dict[str, Any], tiny_models: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(fleet.app.read(fleet.app.models, trained["lora"]))
    header = lora_files.read_header(lora)
    family = lora_families.family_of(lora.name, header.layers).family
    assert (family, header.naming, header.rank) == ("sd15", "kohya", 5)
    assert (header.metadata["ss_steps"], header.metadata["ss_total_batch_size"]) == ("12", "2")
    expected = {
        "steps": 12,
        "rank": 5,
        "learning_rate": 0.02,
        "resolutions": [64],
        "batch_size": 2,
        "preservation": 0.5,
        "seed": 1,
    }
    assert trained["settings"].items() >= expected.items()

    job = fleet.app.request("generation", subject_id=person, prompt="in a garden", negative_prompt="blurred", seed=7)
    drawn = fleet.completed("generation", job)["result"]
    assert (drawn["base"], drawn["models"][0]["id"]) == (BASE, trained["model_id"])
    settings = drawn["settings"]
    assert (settings["width"], settings["height"], settings["steps"], settings["guidance"]) == (64, 48, 3, 4)
    assert settings["negative_prompt_used"]
    raw = np.asarray(Image.open(io.BytesIO(fleet.app.read(fleet.app.uploads, drawn["pictures"][0]["raw"]))))
    theirs = vanilla.draw(
        tiny_models / BASE,
        f"{trained['trigger_word']}, in a garden",
        negative_prompt="blurred",
        seed=7,
        loras=[(lora, 1)],
        width=64,
        height=48,
        num_inference_steps=3,
        guidance_scale=4,
    )
    assert np.abs(raw.astype(int) - theirs).max() <= 1

    # Its pod has the second back end, which upscales to the same pixels as spandrel does.
    content = fleet.app.read(fleet.app.uploads, drawn["pictures"][0]["upscaled"])
    upscaled = np.asarray(Image.open(io.BytesIO(content)), dtype=np.int16)
    assert np.array_equal(upscaled, plain_spandrel(tiny_models / "real-esrgan-x4" / "model.safetensors", raw))
    (gpu_pid,) = fleet.living()[0].gpu_pids()
    assert "/cv2/" in Path(f"/proc/{gpu_pid}/maps").read_text(), "OpenCV, which only realesrgan needs, was loaded"


def test_klein_is_trained_on_its_base_and_drawn_on_the_distilled_one_as_in_plain_diffusers(
    fleet: Fleet, tiny_models: Path, tmp_path: Path
) -> None:
    person = fleet.person()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="train on tiny-klein"):
        fleet.app.request("training", subject_id=person, base="tiny-klein-distilled")
    job = fleet.app.request("training", subject_id=person, base="tiny-klein", seed=1)
    trained = fleet.completed("training", job)["result"]
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(fleet.app.read(fleet.app.models, trained["lora"]))
    header, names = lora_families.identify(lora)
    assert (names.family, header.naming, header.rank) == ("klein", "ComfyUI", 5)

    job = fleet.app.request(
        "generation",
        subject_id=person,
        base="tiny-klein-distilled",
        prompt="in a garden",
        negative_prompt="blurred",
        seed=7,
    )
    drawn = fleet.completed("generation", job)["result"]
    assert (drawn["base"], drawn["models"][0]["id"]) == ("tiny-klein-distilled", trained["model_id"])
    assert (drawn["settings"]["steps"], drawn["settings"]["negative_prompt_used"]) == (2, False)
    raw = np.asarray(Image.open(io.BytesIO(fleet.app.read(fleet.app.uploads, drawn["pictures"][0]["raw"]))))
    theirs = vanilla.draw(
        tiny_models / "tiny-klein-distilled",
        f"{trained['trigger_word']}, in a garden",
        seed=7,
        loras=[(lora, 1)],
        width=64,
        height=48,
        num_inference_steps=2,
        guidance_scale=1.0,
    )
    assert np.abs(raw.astype(int) - theirs).max() == 0


@pytest.mark.parametrize(("family", "guidance"), [("sdxl", 4), ("z-image", 3)])
def test_a_later_family_trains_and_draws_as_plain_diffusers_does(
    fleet: Fleet, person: UUID, tiny_models: Path, tmp_path: Path, family: str, guidance: float
) -> None:
    base = f"tiny-{family}"
    trained = fleet.completed("training", fleet.app.request("training", subject_id=person, base=base))["result"]
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(fleet.app.read(fleet.app.models, trained["lora"]))
    assert lora_families.identify(lora)[1].family == family
    job = fleet.app.request(
        "generation", subject_id=person, model_ids=[trained["model_id"]], prompt="in a garden", seed=7
    )
    drawn = fleet.completed("generation", job)["result"]
    raw = np.asarray(Image.open(io.BytesIO(fleet.app.read(fleet.app.uploads, drawn["pictures"][0]["raw"]))))
    theirs = vanilla.draw(
        tiny_models / base,
        f"{trained['trigger_word']}, in a garden",
        seed=7,
        loras=[(lora, 1)],
        width=64,
        height=48,
        num_inference_steps=2,
        guidance_scale=guidance,
    )
    assert (drawn["base"], np.abs(raw.astype(int) - theirs).max()) == (base, 0)


def pickled(_: bytes) -> bytes:
    return pickle.dumps({"lora": 1})


def truncated(content: bytes) -> bytes:
    return content[:-100]


def not_a_number(content: bytes) -> bytes:
    tensors = load(content)
    return save({name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    ("spoil", "base", "why"),
    [
        (pickled, BASE, "not a safetensors file"),
        (truncated, BASE, "damaged"),
        (not_a_number, BASE, "not finite"),
        (bytes, TINY_BASE, "is a LoRA for sd15, but the base is flux"),
    ],
)
def test_a_lora_that_cannot_be_loaded_fails_the_job_at_once_and_says_why(
    fleet: Fleet, person: UUID, trained: dict[str, Any], spoil: Callable[[bytes], bytes], base: str, why: str
) -> None:
    """A row added by hand, as for a LoRA from elsewhere: its columns need not be true."""
    content = spoil(fleet.app.read(fleet.app.models, trained["lora"]))
    model = fleet.app.add_lora(person, base=base)
    fleet.app.s3.put_object(Bucket=fleet.app.models, Key=f"{model}/lora.safetensors", Body=content)
    fleet.app.run(
        """update public.subjects_models set path = %s, sha256 = %s,
             family = (select family from worker.base_models where slug = %s) where id = %s""",
        f"{model}/lora.safetensors",
        hashlib.sha256(content).hexdigest(),
        base,
        model,
    )
    job = fleet.app.wait_for("generation", fleet.draw(subject_id=person, model_ids=[model], base=base))
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "invalid_input", 1)
    assert job["error"].startswith(f"{model}.safetensors ")
    assert why in job["error"]


def test_the_sampler_and_the_layer_of_clip_are_those_of_the_request(fleet: Fleet) -> None:
    settings = {"prompt": "a mug", "sampler": "DPM++ 2M Karras", "clip_skip": 2}
    job = fleet.app.request("generation", owner_id=fleet.app.owner, base=BASE, **settings)
    drawn = fleet.completed("generation", job)["result"]["settings"]
    assert (drawn["sampler"], drawn["clip_skip"]) == ("dpmpp_2m_karras", 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"sampler": "plms"}, "sampler: plms is not one of klein: euler"), ({"clip_skip": 2}, "clip_skip: klein reads")],
)
def test_a_sampler_or_layer_that_the_family_has_not_is_invalid_input(
    fleet: Fleet, settings: dict[str, Any], said: str
) -> None:
    job = fleet.app.request("generation", owner_id=fleet.app.owner, base="tiny-klein", prompt="a mug", **settings)
    row = fleet.app.wait_for("generation", job)
    assert (row["status"], row["error_code"]) == ("failed", "invalid_input")
    assert row["error"].startswith(said)

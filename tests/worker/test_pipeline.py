"""The whole pipeline with a separate worker process: a request in a table becomes a published file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.app import App
from tests.waiting import wait_until
from tests.worker.studio import Studio


def picture(app: App, key: str) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(Image.open(io.BytesIO(app.read(app.uploads, key))), dtype=np.int16)


def plain_spandrel(weights: Path, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int16]]:
    import torch
    from spandrel import ModelLoader

    esrgan = ModelLoader(device="cpu").load_from_file(weights)
    with torch.no_grad():
        enlarged = esrgan(torch.from_numpy(raw.astype(np.float32) / 255).permute(2, 0, 1)[None])
    expected = (enlarged[0].clamp(0, 1).permute(1, 2, 0) * 255).round()
    return expected.numpy().astype(np.int16)


def test_inserts_produce_a_lora_and_the_picture_that_plain_diffusers_and_spandrel_produce(
    studio: Studio, tiny_models: Path, tmp_path: Path
) -> None:
    app = studio.fleet.app
    subject = app.add_subject()
    app.add_photos(subject)
    training = app.wait_for(
        "training",
        app.request("training", subject_id=subject, steps=30, rank=4, resolution=64, learning_rate=0.02, seed=1),
    )
    assert training["status"] == "completed", training["error"]

    model = training["result"]["model_id"]
    wanted = {"prompt": "in a garden", "seed": 7, "steps": 3, "width": 96, "height": 64}
    with_lora = app.request("generation", subject_id=subject, model_ids=[model], lora_scales=[0.7], **wanted)
    without = app.request("generation", subject_id=subject, model_ids=[], **wanted)
    drawn, plain = (app.wait_for("generation", job) for job in (with_lora, without))
    assert (drawn["status"], plain["status"]) == ("completed", "completed"), (drawn["error"], plain["error"])
    (published,) = drawn["result"]["pictures"]
    raw, upscaled = picture(app, published["raw"]), picture(app, published["upscaled"])

    wait_until(lambda: f"{subject}/lora.safetensors" in app.keys(app.models), "the convenience copy")
    assert app.read(app.models, f"{subject}/lora.safetensors") == app.read(app.models, training["result"]["lora"])

    # The published file in plain diffusers gives the same picture ...
    import torch
    from diffusers import FluxPipeline

    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(app.read(app.models, training["result"]["lora"]))
    pipe = FluxPipeline.from_pretrained(tiny_models / "tiny-flux")
    pipe.load_lora_weights(str(tmp_path), weight_name=lora.name, adapter_name="lora")
    pipe.set_adapters("lora", 0.7)
    prompt = f"{training['result']['trigger_word']}, in a garden"
    (vanilla,) = pipe(
        prompt,
        width=96,
        height=64,
        num_inference_steps=3,
        generator=torch.Generator("cpu").manual_seed(7),
        max_sequence_length=pipe.tokenizer_2.model_max_length,
    ).images
    difference = np.abs(raw - np.asarray(vanilla, dtype=np.int16)).max()
    assert difference <= 1
    # ... which differs from the picture without the LoRA.
    base_picture = picture(app, plain["result"]["pictures"][0]["raw"])
    assert np.abs(raw - base_picture).max() >= 20 * max(difference, 1)

    # The upscaled file equals spandrel's, and differs from a bicubic enlargement.
    assert np.array_equal(upscaled, plain_spandrel(tiny_models / "real-esrgan-x4" / "model.safetensors", raw))
    size = (upscaled.shape[1], upscaled.shape[0])
    bicubic = Image.fromarray(raw.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    assert np.abs(upscaled - np.asarray(bicubic, dtype=np.int16)).max() > 10

"""The whole line with a separate worker process: a request in a table becomes a published file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.app import App


def test_an_insert_becomes_a_lora_and_a_second_one_a_picture(app: App, start_worker: Callable[..., Any]) -> None:
    subject = app.add_subject()
    app.add_photos(subject)
    start_worker()
    training = app.wait_for("training", app.request("training", subject_id=subject, steps=3, resolution=64))
    assert training["status"] == "completed", training["error"]
    drawing = app.wait_for("generation", app.request("generation", subject_id=subject, prompt="in a garden"))
    assert drawing["status"] == "completed", drawing["error"]
    (picture,) = drawing["result"]["pictures"]
    assert app.read(app.uploads, picture["upscaled"]).startswith(b"\x89PNG")
    assert (picture["width"], picture["raw_width"]) == (256, 64)
    assert app.read(app.models, f"{subject}/lora.safetensors") == app.read(app.models, training["result"]["lora"])

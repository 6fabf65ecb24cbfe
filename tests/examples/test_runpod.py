"""The RunPod example: a template with every setting, and a notebook that runs a worker."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.app import App
from tests.processes import worker_environment
from tests.waiting import wait_until
from worker.settings import Settings, variable

RUNPOD = Path(__file__).parent.parent.parent / "examples" / "runpod"


def test_the_template_holds_every_setting_and_no_secret() -> None:
    env: dict[str, str] = json.loads((RUNPOD / "template.json").read_text())["env"]
    assert list(env) == [variable(name) for name in Settings.model_fields]
    secrets = [value for name, value in env.items() if re.search("DATABASE|_KEY|TOKEN", name)]
    assert len(secrets) == 9
    assert all(re.fullmatch(r"(\{\{ RUNPOD_SECRET_\w+ \}\})?", value) for value in secrets)


def test_the_notebook_starts_shows_and_stops_a_worker(
    app: App, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = nbformat.read(RUNPOD / "start_worker.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)  # type: ignore[no-untyped-call]
    prepare, install, start, look, stop = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    for name, value in worker_environment(app, tiny_models).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "likeness-venv").symlink_to(sys.prefix)  # installed already
    kernel: dict[str, Any] = {}

    def execute(cell: str) -> str:
        exec(compile(cell, "cell", "exec"), kernel)
        return capsys.readouterr().out

    execute(prepare)
    execute(install)
    try:
        assert "Started as process" in execute(start)
        kernel.pop("worker")  # as after a restart of the kernel
        wait_until(kernel["is_running"], "the new process to have its command line")
        assert "It runs already." in execute(start)
        wait_until(
            lambda: "worker.ready" in execute(look) or not kernel["is_running"](),
            "the worker to be ready or to end",
            90,
        )
        shown = execute(look)
        assert shown.startswith("running\n"), shown
        assert "worker.stopped" in execute(stop)
        assert execute(look).startswith("not running\n")
    finally:
        if kernel["is_running"]():
            os.kill(int((tmp_path / "worker.pid").read_text()), signal.SIGKILL)

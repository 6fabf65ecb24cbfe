"""`worker run 2>&1 | head -1`: the reader of the log has ended, and the worker continues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import worker_environment
from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from tests.worker.conftest import MakeFleet, copy_with_a_damaged_base


def test_jobs_and_sigterm_are_handled_after_the_log_pipe_is_closed(
    make_fleet: MakeFleet, tiny_models: Path, tmp_path: Path
) -> None:
    # A damaged base, so that the GPU process logs something too.
    models_dir = copy_with_a_damaged_base(tiny_models, tmp_path / "models")
    fleet = make_fleet()
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker", "run"],
        env={**worker_environment(fleet.app, models_dir), **fleet.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert worker.stdout is not None
        assert any(b"worker.ready" in line for line in iter(worker.stdout.readline, b""))
        worker.stdout.close()
        drawn = fleet.app.wait_for("generation", fleet.draw())
        assert (drawn["status"], drawn["error_code"]) == ("failed", "model_missing")
        assert TINY_BASE in drawn["error"]
        running = fleet.train(steps=2000)
        wait_until(lambda: fleet.app.job("training", running)["status"] == "running", "a training to run")
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert fleet.app.job("training", running)["status"] == "queued"
    assert fleet.app.one("select count(*) from worker.pods") == 0
